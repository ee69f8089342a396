"""Tracking section of a recipe. Torch-free."""

from typing import Annotated

from pydantic import Field

from models.section import Section


class MLflowConfig(Section):
    """Where metrics go besides the journal."""

    enabled: bool = True
    tracking_uri: str | None = None
    """Default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the folder the launch was started from."""
    experiment: str = "mulaunch"


class TrackConfig(Section):
    """What is recorded and how often."""

    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between logged steps (progress line, journal line, metrics)."""
    mlflow: MLflowConfig = MLflowConfig()
