"""Progress of a run. Torch-free."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is, and what it reads next."""

    step: int = 0
    """Optimizer steps completed."""
    data_step: int = 0
    """Global batches read or skipped; the next step reads the batch with this number. Larger than `step`
    after a rollback that skips a range of the data."""

    def after_step(self) -> "Progress":
        """Progress after one more step."""
        return Progress(self.step + 1, self.data_step + 1)
