"""S4D: convolution = recurrence, accuracy, dtypes, safety."""

import copy

import pytest
import torch

from models.config import S4DConfig
from models.s4d import S4D, S4DSSM, s4d_facts
from models.slow import s4d_recurrence


def ssm_of(fill, config: S4DConfig, d_model: int) -> S4DSSM:
    facts = {name.removeprefix("ssm."): fact for name, fact in s4d_facts(config).items() if "ssm." in name}
    return fill(S4DSSM(config, d_model), facts)


@pytest.mark.parametrize("init", ["lin", "inv", "legs"])
@pytest.mark.parametrize("length", [1, 2, 3, 17, 1000])
def test_convolution_equals_recurrence(fill, init: str, length: int) -> None:
    ssm = ssm_of(fill, S4DConfig(d_state=8, init=init, n_ssm=2), 4)
    u_BLH = torch.randn(2, length, 4, generator=torch.Generator().manual_seed(0))
    expected = s4d_recurrence(ssm, u_BLH)
    # float32 FFT and kernel: about 1e-6 of the largest output
    assert (ssm(u_BLH) - expected).abs().max() <= 5e-6 * expected.abs().max()


@pytest.mark.parametrize("init", ["lin", "inv", "legs"])
@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_kernel_is_within_5e6_of_a_float64_recurrence(fill, init: str, length: int) -> None:
    ssm = ssm_of(fill, S4DConfig(d_state=64, init=init), 16)
    with torch.no_grad():
        ssm.D.zero_()
        impulse_BLH = torch.zeros(1, length, 16)
        impulse_BLH[:, 0] = 1
        expected = s4d_recurrence(ssm, impulse_BLH)[0].T
        found = ssm.kernel(length)
    error = (found - expected).abs().amax(1) / expected.abs().amax(1)
    assert error.max() <= 5e-6


@pytest.mark.parametrize("final_act", ["glu", "gelu", "id"])
def test_future_inputs_do_not_change_the_past(fill, final_act: str) -> None:
    config = S4DConfig(d_state=8, final_act=final_act)
    mixer = fill(S4D(config, 4), s4d_facts(config))
    x_BLH = torch.randn(1, 20, 4)
    changed = x_BLH.clone()
    changed[:, 12:] = 5
    # the FFT mixes rounding errors over the whole length
    torch.testing.assert_close(mixer(x_BLH)[:, :12], mixer(changed)[:, :12], atol=2e-5, rtol=0)


def test_gradients_agree_with_finite_differences(fill) -> None:
    ssm = ssm_of(fill, S4DConfig(d_state=4, init="lin"), 2).double()
    names = [name for name, _ in ssm.named_parameters()]
    u_BLH = torch.randn(1, 5, 2, dtype=torch.float64)

    def run(u: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(ssm, dict(zip(names, values, strict=True)), (u,))

    inputs = [u_BLH.requires_grad_(), *(p.detach().clone().requires_grad_() for p in ssm.parameters())]
    assert torch.autograd.gradcheck(run, inputs)


def test_state_space_stays_float32_under_bfloat16(fill) -> None:
    config = S4DConfig(d_state=8)
    mixer = fill(S4D(config, 4), s4d_facts(config))
    x_BLH = torch.randn(2, 64, 4)
    expected = mixer.ssm(x_BLH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mixer(x_BLH).dtype == torch.bfloat16
        assert torch.equal(mixer.ssm(x_BLH), expected)
    halved = copy.deepcopy(mixer).to(torch.bfloat16)
    assert torch.isfinite(halved(x_BLH.bfloat16())).all()


def test_runaway_parameters_give_finite_outputs_and_gradients(fill) -> None:
    ssm = ssm_of(fill, S4DConfig(d_state=4), 4)
    with torch.no_grad():
        ssm.log_dt.copy_(torch.tensor([-1e4, 1e4, 50.0, -50.0]))
        ssm.A_log_real[0], ssm.A_log_real[1] = 1e4, -1e4
        ssm.A_imag[2] = 0.0
    out = ssm(torch.randn(1, 50, 4))
    out.square().mean().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in ssm.parameters())


def test_compiles_without_graph_breaks(fill) -> None:
    config = S4DConfig(d_state=8)
    mixer = fill(S4D(config, 4), s4d_facts(config))
    x_BLH = torch.randn(1, 33, 4)
    torch._dynamo.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_BLH), mixer(x_BLH))
