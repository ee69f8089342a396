"""Base shapes, width multipliers and the scaling rules of the maximal update parametrisation."""
