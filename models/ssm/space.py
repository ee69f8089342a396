"""The state space of a layer: in here is every parameter that must stay float32, whatever the rest is.

Parameters have channels (or copies of A) first: the dimension that sharding cuts.
"""

import abc
from collections.abc import Mapping, Sequence

import torch

from models.convolution import causal_convolution, two_sided_convolution
from models.precision import no_autocast
from models.ssm.system import System
from models.step_kernels import KernelSource


class StateSpace(KernelSource, abc.ABC):
    """Abstract: parameters of a discrete system. D is (H, C); of twice as many kernels half look ahead."""

    D: torch.Tensor
    state_shape: tuple[int, int]
    """Channels and real state dimensions of each: (H, N)."""
    two_sided: bool
    """Whether half of the kernels look ahead."""

    @abc.abstractmethod
    def discretise(self, values: Mapping[str, torch.Tensor]) -> System:
        """The system of parameters by name; of several layers where they are stacked along dimension 0."""

    def system(self) -> System:
        """Discretise the parameters as they are now."""
        return self.discretise(dict(self.named_parameters()))

    def kernels(self, values: Sequence[torch.Tensor], length: int) -> torch.Tensor:
        """See KernelSource."""
        names = [name for name, _ in self.named_parameters()]
        return self.discretise(dict(zip(names, values, strict=True))).kernel(length)

    def forward(
        self, u_BLH: torch.Tensor | None = None, x_BHN: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Outputs (B, C H, L) in at least float32; with a state before, also the state after.

        Without inputs, a flat copy of the parameters.
        """
        if u_BLH is None:
            return self.copy_flat()
        # Both ways are one method because what shards parameters gathers them around a module's call (ZeRO 3
        # around that of every module): another method would find this rank's part of them, or nothing.
        with no_autocast(u_BLH):
            system = self.system()
            if x_BHN is None:
                return convolve(u_BLH, system.kernel(u_BLH.shape[1]), self.two_sided)
            u_BLH = u_BLH.to(torch.promote_types(self.D.dtype, torch.float32))
            k_CHL, added_BCHL, x_BHN = system.carry(u_BLH.transpose(1, 2), x_BHN)
            return (causal_convolution(u_BLH, k_CHL) + added_BCHL).flatten(1, 2), x_BHN


def convolve(u_BLH: torch.Tensor, k_CHL: torch.Tensor, two_sided: bool) -> torch.Tensor:
    """Outputs (B, C H, L), in the dtype of the kernels, which may be longer than L.

    Of kernels on two sides, the second half looks ahead.
    """
    with no_autocast(u_BLH):
        u_BLH, k_CHL = u_BLH.to(k_CHL.dtype), k_CHL[..., : u_BLH.shape[1]]
        if not two_sided:
            return causal_convolution(u_BLH, k_CHL).flatten(1, 2)
        return two_sided_convolution(u_BLH, *k_CHL.chunk(2)).flatten(1, 2)
