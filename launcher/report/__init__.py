"""Plots of measured results."""
