"""How far a run is. Torch-free."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, and what it reads next."""

    step: int = 0
    """Optimizer steps done."""
    data_step: int = 0
    """Global batches read or skipped: the next step reads the batch of this number. Ahead of `step` once a
    rollback has skipped a range of the data."""

    def after_step(self) -> "Progress":
        """One step further, on the next data."""
        return Progress(self.step + 1, self.data_step + 1)
