"""Tracking section of a recipe. Torch-free."""

from typing import Annotated

from pydantic import Field, field_validator

from launcher.track.tracking_uri import mask_secrets
from models.section import Section, Steps


class MLflowConfig(Section):
    """MLflow, which receives a copy of the journal's metrics."""

    enabled: bool = True
    """Whether to log to MLflow at all; the journal is always written."""
    tracking_uri: str | None = None
    """Default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the folder where the launch was started."""
    experiment: Annotated[str, Field(min_length=1)] = "mulaunch"
    """Name of the experiment that runs are in."""
    report: bool = False
    """Whether a finished run's page of `launch report` is made, and stored as an artifact; some seconds."""

    @field_validator("tracking_uri")
    @classmethod
    def _hold_no_secret(cls, uri: str | None) -> str | None:
        """A recipe is copied into run folders and trackers, so it must not contain a password."""
        if uri is not None and mask_secrets(uri) != uri:
            raise ValueError(
                f"{mask_secrets(uri)} contains credentials; pass them in MLFLOW_TRACKING_URI instead"
            )
        return uri


class DiagnosisConfig(Section):
    """Measurements with every validation, in passes of their own over the last step's batch. They change
    nothing of the run."""

    layers: bool = True
    """RMS and batch entropy of each layer's output; one forward pass."""
    sharpness: bool = False
    """Largest eigenvalue of the Hessian in the optimizer's coordinates, as a share of its edge of stability;
    some 50 gradients, and room for eight more copies of the weights."""


class TraceConfig(Section):
    """A record of what each rank's processors do in some steps, by torch's profiler. It slows them down."""

    from_step: Steps
    """The first of them; not one of the first of an attempt, which also compile and allocate."""
    steps: Annotated[int, Field(ge=1, le=20)] = 3
    """How many: a file grows by megabytes with each."""
    every: Steps | None = None
    """Steps from one record to the next; null records once in an attempt."""
    memory: bool = False
    """Also what each operator allocates; of GPUs, a snapshot for pytorch.org/memory_viz."""


class TrackConfig(Section):
    """What is logged and how often."""

    log_every: Steps = 10
    """Steps between logged steps (progress line, journal line, metrics)."""
    diagnosis: DiagnosisConfig | None = None
    """Null for none."""
    trace: TraceConfig | None = None
    """Null for none."""
    mlflow: MLflowConfig = MLflowConfig()
    tensorboard: Annotated[str, Field(min_length=1)] | None = None
    """Local folder for event files, of each run in a folder of its own: `tensorboard --logdir` takes it."""
    wandb: Annotated[str, Field(min_length=1)] | None = None
    """Weights & Biases project; offline, in ./wandb, where there is no key or WANDB_MODE says so."""
