"""What a forward and backward pass keeps in memory, by counting tensors: no model is run. Torch-free.

A layer's `saved` is what autograd keeps of it from its forward to its backward pass; `working` is what its
backward pass holds besides at its worst moment, the incoming gradient included, gradients of weights not.
Counted from the operations as they are on a CPU; a GPU's kernels keep the same tensors, with less in between.
"""

from dataclasses import dataclass
from typing import final

REAL = 4
"""Bytes of a float32, in which everything outside of matrix products is kept."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One micro batch of a rank: B sequences of L positions."""

    sequences: int
    length: int
    half: bool = False
    """Whether matrix products are taken in bfloat16."""
    gathered: bool = False
    """Whether matrices come in bfloat16, and go again: copies of weights are then not kept."""
    num_micro: int = 1
    """Micro batches of a step, which share kernels of state spaces."""
    carries: bool = False
    """Whether states continue from window to window: then each layer makes its own kernels."""

    @property
    def positions(self) -> int:
        """B L."""
        return self.sequences * self.length

    @property
    def product(self) -> int:
        """Bytes of a number that goes into a matrix product, or comes out."""
        return 2 if self.half else REAL

    def rounded(self, num_weights: float) -> float:
        """Bytes of the copies of weights that a product in bfloat16 keeps."""
        return 2.0 * num_weights if self.half and not self.gathered else 0.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFootprint:
    """Bytes of one layer's kernels."""

    taps: float
    """The kernels themselves."""
    between: float
    """What autograd keeps from parameters to kernels."""


NO_KERNELS = KernelFootprint(taps=0.0, between=0.0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of a layer, or of anything else that has a backward pass."""

    saved: float
    working: float

    def plus(self, saved: float) -> "Footprint":
        """With something else that is saved beside it."""
        return Footprint(saved=self.saved + saved, working=self.working)
