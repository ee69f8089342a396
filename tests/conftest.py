"""Fixtures for all rooms."""

import os

import pytest

pytest_plugins = ["tests.slurm_lab.lab"]


@pytest.fixture(scope="session")
def update_golden() -> bool:
    """Whether golden files are to be written again: UPDATE_GOLDEN=1."""
    return os.environ.get("UPDATE_GOLDEN") == "1"
