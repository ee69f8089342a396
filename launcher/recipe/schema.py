"""The recipe: every section assembled, and the training section. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from cluster.config import ClusterConfig
from launcher.check.config import CheckConfig
from launcher.checkpoint.config import CheckpointConfig
from launcher.data.config import DataConfig
from launcher.mup.config import MupConfig
from launcher.optim.config import OptimConfig, ScheduleConfig
from launcher.parallel.config import ParallelConfig
from launcher.track.config import TrackConfig
from models.config import ModelConfig
from models.section import Section


class TrainConfig(Section):
    """How long, and how much at once."""

    steps: Annotated[int, Field(ge=1)]
    """Optimizer steps."""
    global_batch_size: Annotated[int, Field(ge=1)]
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: Annotated[int, Field(ge=1)]
    """Most sequences per rank in one forward."""
    truncated_bptt: bool = False
    """Read windows one behind the other, and start each from the states that the layers had at the end of the
    one before; gradients end where a window begins. Validation windows are read in the same way."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between evaluations on validation data; null evaluates at the end only."""
    validation_sequences: Annotated[int, Field(ge=0)] = 64
    """Validation windows per evaluation, over all ranks; 0 never evaluates."""


class Recipe(Section):
    """One experiment, complete."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    mup: MupConfig
    parallel: ParallelConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    track: TrackConfig
    check: CheckConfig = CheckConfig()
    cluster: ClusterConfig = ClusterConfig()
