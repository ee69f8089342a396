"""YAML text -> typed, frozen recipe with source positions. Imports no torch."""
