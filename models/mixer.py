"""What every residual branch can do: see a whole sequence, a chunk with state, or one token.

Letters: B batch, L length, H channels. A state is a tuple of tensors, batch first; what it means is the
mixer's own affair.
"""

import abc
from collections.abc import Callable

import torch
from torch import nn

from models.documents import Documents
from models.step_kernels import KernelSource

State = tuple[torch.Tensor, ...]
Step = Callable[[torch.Tensor, State], tuple[torch.Tensor, State]]
"""One token: x (B, H) and the state before it -> the output (B, H) and the state after it."""


class Mixer(nn.Module, abc.ABC):
    """Abstract branch of a residual layer. The three ways give the same numbers, up to rounding."""

    @property
    def kernel_source(self) -> KernelSource | None:
        """What makes its kernels, where `forward` takes them ready as `kernel_CHL`."""
        return None

    @abc.abstractmethod
    def forward(
        self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None, documents: Documents | None = None
    ) -> torch.Tensor:
        """Mix whole sequences. `mask_BL` is true where a position is valid; only who looks ahead needs it.

        `documents` are to be kept apart; given only to kinds in config.KEEP_APART.
        """

    @abc.abstractmethod
    def initial_state(self, batch_size: int, device: torch.device) -> State:
        """The state before the first token. No parameter's shape is read: it may be sharded at the time."""

    @abc.abstractmethod
    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Mix the next chunk of sequences, of any length: (output, state after it)."""

    def stepper(self) -> Step:
        """A function that mixes one token. It holds what can be computed from the parameters once."""

        def step(x_BH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            out_B1H, state = self.advance(x_BH[:, None], state)
            return out_B1H[:, 0], state

        return step
