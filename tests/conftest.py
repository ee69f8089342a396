"""Fixtures for all rooms."""

pytest_plugins = ["tests.slurm_lab.lab"]
