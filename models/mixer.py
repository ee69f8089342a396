"""What every residual branch can do: see a whole sequence, a chunk with state, or one token.

Letters: B batch, L length, H channels. A state is a tuple of tensors, batch first; what it means is the
mixer's own affair.
"""

import abc

import torch
from torch import nn

from models.ssm.system import Recurrence

State = tuple[torch.Tensor, ...]


class Mixer(nn.Module, abc.ABC):
    """Abstract branch of a residual layer. The three ways give the same numbers, up to rounding."""

    @abc.abstractmethod
    def forward(self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
        """Mix whole sequences. `mask_BL` is true where a position is valid; only who looks ahead needs it."""

    @abc.abstractmethod
    def initial_state(self, batch_size: int, device: torch.device) -> State:
        """The state before the first token. No parameter's shape is read: it may be sharded at the time."""

    @abc.abstractmethod
    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Mix the next chunk of sequences, of any length: (output, state after it)."""

    @abc.abstractmethod
    def prepare(self) -> Recurrence | None:
        """What `step` needs of the parameters, computed once."""

    @abc.abstractmethod
    def step(
        self, x_BH: torch.Tensor, state: State, prepared: Recurrence | None
    ) -> tuple[torch.Tensor, State]:
        """Mix the next token: (output, state after it)."""
