"""Sweeps: a grid of recipes trained here, one process a point, and what they say about transfer."""
