"""The recipe, with all its sections, and the training section. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from cluster.config import ClusterConfig
from launcher.check.config import CheckConfig, Provenance
from launcher.checkpoint.config import CheckpointConfig
from launcher.data.config import DataConfig
from launcher.guard.config import GuardConfig
from launcher.mup.config import MupConfig
from launcher.optim.config import OptimConfig, ScheduleConfig
from launcher.parallel.config import ParallelConfig
from launcher.track.config import TrackConfig
from models.config import ModelConfig
from models.section import Count, CountOrZero, Section, Steps


class TrainConfig(Section):
    """Length of the run, and batch sizes."""

    steps: Steps
    """Optimizer steps."""
    global_batch_size: Count
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: Count
    """Most sequences per rank in one forward pass."""
    truncated_bptt: bool = False
    """Read consecutive windows, and start each from the layers' states at the end of the previous one.
    Gradients stop at the start of a window. Validation windows are read in the same way."""
    validate_every: Steps | None = None
    """Steps between evaluations on validation data; null evaluates only at the end."""
    validation_sequences: CountOrZero = 64
    """Validation windows per evaluation, over all ranks; 0 never evaluates."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """A checkpoint, or a run for its newest good one, whose weights a new run starts with."""


class Recipe(Section):
    """One complete experiment."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Of runs, in folders and in MLflow."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Of initial values, the order of samples, and dropout."""
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    mup: MupConfig
    parallel: ParallelConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    track: TrackConfig
    guard: GuardConfig = GuardConfig()
    check: CheckConfig = CheckConfig()
    provenance: Provenance | None = None
    """Where values were tuned: written by `launch sweep --best`."""
    cluster: ClusterConfig = ClusterConfig()
    extensions: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], ...] = ()
    """Installed distributions that add layers, optimizers, schedules, data sources or clusters."""
