"""Checks of a recipe's parametrisation and model, small enough for two CPU cores, before it is launched."""
