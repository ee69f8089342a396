"""The loss by chunks is that of all logits at once, and so are its gradients."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import models.loss as module
from models.loss import IGNORED, chunk_length, readout_scores, scores

N, H, V = 300, 24, 131
"""No multiples of a chunk or of the alignment."""


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_NH = torch.randn(N, H, generator=generator, dtype=torch.float64).to(dtype)
    weight_VH = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype)
    y_N = torch.randint(V, (N,), generator=generator)
    y_N[::7] = IGNORED
    return x_NH.requires_grad_(), weight_VH.requires_grad_(), y_N


def plain(x_NH: torch.Tensor, weight_VH: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
    return scores((x_NH @ weight_VH.t()).float() if x_NH.itemsize < 8 else x_NH @ weight_VH.t(), y_N)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    assert chunk_length(V) == 128


def test_loss_and_gradients_equal_those_of_all_logits() -> None:
    x, weight, y = inputs(torch.float64)
    found, expected = (
        torch.autograd.grad(f(x, weight, y)[0] / 3, (x, weight)) for f in (readout_scores, plain)
    )
    assert torch.equal(readout_scores(x, weight, y)[0], readout_scores(x, weight, y)[0])
    torch.testing.assert_close(readout_scores(x, weight, y), plain(x, weight, y), rtol=1e-14, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_hits_are_counted_in_evaluation() -> None:
    x, weight, y = inputs()
    with torch.no_grad():
        assert readout_scores(x, weight, y)[1] == plain(x, weight, y)[1] > 0
    assert readout_scores(x, weight, y)[1] == 0


def test_in_bfloat16_padded_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, y = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        padded = readout_scores(x, weight, y)
        grads = torch.autograd.grad(padded[0], (x, weight))
        monkeypatch.setattr(module, "_ALIGNED", 1)
        unpadded = readout_scores(x, weight, y)
        others = torch.autograd.grad(unpadded[0], (x, weight))
    assert torch.equal(padded, unpadded)
    assert grads[1].shape == weight.shape
    assert grads[1].dtype == weight.dtype
    for one, other in zip(grads, others, strict=True):
        # Products of other sizes may be added in another order: eight bits of each number are kept.
        torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-7 * float(other.abs().max()))


def test_bfloat16_is_as_near_to_float64_as_its_products() -> None:
    x, weight, y = inputs()
    exact = plain(x.double(), weight.double(), y)[0].detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = readout_scores(x, weight, y)[0].detach()
    # a logit is off by 2^-8 of itself and of each of its H products; the loss by no more than twice a logit
    logits = x.detach().abs() @ weight.detach().abs().t()
    assert abs(float(found - exact)) <= 2 * 3 * 2**-9 * float(logits.amax(1).sum())
    assert float(found) != pytest.approx(float(exact), rel=1e-7), "bfloat16 was used"


def test_second_derivatives_are_those_of_all_logits() -> None:
    x, weight, y = inputs(torch.float64)

    def curvature(f: Any) -> torch.Tensor:
        (slope,) = torch.autograd.grad(f(x, weight, y)[0], x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    torch.testing.assert_close(curvature(readout_scores), curvature(plain), rtol=1e-10, atol=1e-12)


def test_no_tensor_holds_all_logits() -> None:
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    x, weight, y = inputs()
    with Largest() as largest:
        readout_scores(x, weight, y)[0].backward()
    assert largest.size == 128 * V


def test_a_gradient_is_handed_out_once() -> None:
    x, weight, y = inputs()
    loss = readout_scores(x, weight, y)[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        loss.backward()
