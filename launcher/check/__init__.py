"""Checks of a recipe's parametrization and model before launch, small enough for two CPU cores."""
