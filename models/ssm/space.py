"""The state space of a layer: in here is every parameter that must stay float32, whatever the rest is.

Parameters have channels (or copies of A) first: the dimension that sharding cuts.
"""

import abc

import torch
from torch import nn

from models.convolution import causal_convolution, two_sided_convolution
from models.precision import no_autocast
from models.ssm.system import System


class StateSpace(nn.Module, abc.ABC):
    """Abstract: parameters of a discrete system. D is (H, C); of twice as many kernels half look ahead."""

    D: torch.Tensor
    state_shape: tuple[int, int]
    """Channels and real state dimensions of each: (H, N)."""

    @abc.abstractmethod
    def system(self) -> System:
        """Discretise the parameters as they are now."""

    def forward(
        self, u_BLH: torch.Tensor, x_BHN: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Outputs (B, C H, L) in at least float32; with a state before, also the state after."""
        # Both ways are one method because what shards parameters gathers them around a module's call (ZeRO 3
        # around that of every module): another method would find this rank's part of them, or nothing.
        with no_autocast(u_BLH):
            system, length, num_outputs = self.system(), u_BLH.shape[1], self.D.shape[1]
            u_BLH = u_BLH.to(torch.promote_types(self.D.dtype, torch.float32))
            if x_BHN is not None:
                k_CHL, added_BCHL, x_BHN = system.carry(u_BLH.transpose(1, 2), x_BHN)
                return (causal_convolution(u_BLH, k_CHL) + added_BCHL).flatten(1, 2), x_BHN
            k_CHL = system.kernel(length)
            if k_CHL.shape[0] > num_outputs:
                return two_sided_convolution(u_BLH, k_CHL[:num_outputs], k_CHL[num_outputs:]).flatten(1, 2)
            return causal_convolution(u_BLH, k_CHL).flatten(1, 2)
