"""Shampoo and SOAP: preconditioners from the second moments of a matrix's rows and columns.

The averages of G G^T and G^T G and their roots or eigenbases are whole on every rank, and equal there because
every rank computes them from the same gathered gradient. First moments are sharded as the parameters are.

Shapes: G, M, V and the update (m, n); L (m, m); R (n, n).
"""

from typing import Any, final

import torch

from launcher.optim.config import ShampooConfig, SOAPConfig
from launcher.optim.elementwise import local
from launcher.optim.matrix import MatrixOptimizer, whole


@final
class Shampoo(MatrixOptimizer):
    """L^-1/4 M R^-1/4 (arXiv 1802.09568): momentum M, averages L and R instead of sums, no grafting."""

    waits = True

    def __init__(self, groups: list[dict[str, Any]], config: ShampooConfig) -> None:
        super().__init__(groups, config.others)
        self._betas, self._every = config.betas, config.precondition_every

    def _first_state(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), **square_state(p, "LR", "root")}

    def _direction(
        self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]
    ) -> torch.Tensor:
        G = whole(grad)
        beta1, beta2 = self._betas
        count = int(state["step"])
        state["step"] += 1
        local(state["exp_avg"]).lerp_(local(grad), 1 - beta1)
        state["L"].lerp_(G @ G.T, 1 - beta2)  # (m, m)
        state["R"].lerp_(G.T @ G, 1 - beta2)  # (n, n)
        # Roots cost O(m^3 + n^3), so they are computed every few steps, the first one included. L and R start
        # at zero: dividing by 1 - beta2^t makes them averages, as in Adam.
        if count % self._every == 0:
            for side in "LR":
                average = state[side] / (1 - beta2 ** (count + 1))
                state[f"{side}_root"].copy_(inverse_fourth_root(average, group["eps"]))
        M = whole(state["exp_avg"]) / (1 - beta1 ** (count + 1))
        # For a constant G = U S V^T and small eps, L^-1/4 is U S^-1/2 U^T and R^-1/4 is V S^-1/2 V^T: the
        # update is U V^T, every singular value 1, as in Muon.
        return state["L_root"] @ M @ state["R_root"]  # (m, m) (m, n) (n, n)


@final
class SOAP(MatrixOptimizer):
    """Adam in the eigenbasis of Shampoo's preconditioners (arXiv 2409.11321, algorithm 3)."""

    waits = True

    def __init__(self, groups: list[dict[str, Any]], config: SOAPConfig) -> None:
        super().__init__(groups, config.others)
        self._betas, self._every = config.betas, config.precondition_every
        self._sides = "LR" if config.sides == "both" else "L"

    def _first_state(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        second = torch.zeros(p.shape, dtype=p.dtype, device=p.device)  # whole, where p is sharded
        first = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": second}
        return first | square_state(p, self._sides, "basis")

    def _direction(
        self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]
    ) -> torch.Tensor:
        G, (beta1, beta2) = whole(grad), self._betas
        count = int(state["step"])
        state["step"] += 1
        for side in self._sides:
            state[side].lerp_(G @ G.T if side == "L" else G.T @ G, 1 - beta2)
        if count == 0:
            for side in self._sides:
                state[f"{side}_basis"].copy_(torch.linalg.eigh(state[side])[1])
        # M is linear in G: it is kept unprojected, and each step projects it with the current basis. V is
        # not, so it has to be averaged in the basis.
        local(state["exp_avg"]).lerp_(local(grad), 1 - beta1)
        state["exp_avg_sq"].lerp_(self._project(G, state).square(), 1 - beta2)
        M = self._project(whole(state["exp_avg"]), state) / (1 - beta1 ** (count + 1))
        V = state["exp_avg_sq"] / (1 - beta2 ** (count + 1))
        update = self._project_back(M / (V.sqrt() + group["eps"]), state)
        if count > 0 and count % self._every == 0:
            for side in self._sides:
                # One step of power iteration keeps the order of the columns, so V still fits the new basis;
                # a new eigh() would sort them by eigenvalue.
                basis = state[f"{side}_basis"]
                basis.copy_(torch.linalg.qr(state[side] @ basis)[0])
        return update

    def _project(self, x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """A matrix (m, n) in the eigenbasis: Q_L^T x Q_R."""
        x = state["L_basis"].T @ x
        return x @ state["R_basis"] if "R" in self._sides else x

    def _project_back(self, x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """A matrix of the eigenbasis as one of the parameter's: Q_L x Q_R^T."""
        x = state["L_basis"] @ x
        return x @ state["R_basis"].T if "R" in self._sides else x


def square_state(p: torch.Tensor, sides: str, name: str) -> dict[str, torch.Tensor]:
    """For each side of a matrix: a zero average, and an identity called SIDE_NAME; whole on every rank."""
    state = {}
    for side, size in zip(sides, p.shape, strict=False):
        state[side] = torch.zeros(size, size, dtype=p.dtype, device=p.device)
        state[f"{side}_{name}"] = torch.eye(size, dtype=p.dtype, device=p.device)
    return state


def inverse_fourth_root(matrix: torch.Tensor, eps: float) -> torch.Tensor:
    """(matrix + eps)^-1/4 of a positive semidefinite matrix, in float64: eigenvalues span many orders."""
    values, vectors = torch.linalg.eigh(matrix.double())
    # Rounding can make an eigenvalue that is 0 slightly negative, whose root would be NaN.
    roots = (values.clamp(min=0) + eps) ** -0.25
    return ((vectors * roots) @ vectors.T).to(matrix.dtype)
