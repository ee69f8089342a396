"""SSD: matrix form = recurrence, state, extremes, dtypes, safety, facts."""

import copy

import pytest
import torch
from pydantic import ValidationError

from models.config import BackboneSection, SSDConfig
from models.facts import Role
from models.layers import Dropout
from models.ssd import scan as scan_module
from models.ssd import ssd_mixer
from models.ssd.scan import CHUNK, scan
from models.ssd.slow_ssd import recurrence
from models.ssd.ssd_mixer import SSD, ssd_facts, ssd_flops

CONFIGS = {
    "own keys": SSDConfig(d_state=5, d_head=4, heads_per_group=1),
    "one group": SSDConfig(d_state=8, d_head=4, heads_per_group=4),
    "two groups": SSDConfig(d_state=8, d_head=4, heads_per_group=2),
    "one tap": SSDConfig(d_state=8, d_head=2, heads_per_group=2, d_conv=1, expand=1),
    "fast decay": SSDConfig(d_state=8, d_head=4, heads_per_group=2, dt_min=1.0, dt_max=10.0),
}
CPU = torch.device("cpu")


@pytest.fixture(params=CONFIGS)
def layer(request, fill) -> SSD:
    return build(fill, CONFIGS[request.param])


def build(fill, config: SSDConfig, d_model: int = 8) -> SSD:
    return fill(SSD(config, d_model, Dropout(0.0)), ssd_facts(config))


def signal(length: int, channels: int = 8) -> torch.Tensor:
    return torch.randn(2, length, channels, generator=torch.Generator().manual_seed(length))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


# Sums of up to 64 terms of either sign, each rounded to 6e-8, and a few operations before and after them:
# some 1e-6 of the largest output. Measured: 2e-7.
FLOAT32 = 2e-6
# the same with 1e-16
FLOAT64 = 4e-15


@pytest.mark.parametrize("length", [1, 2, 3, 17, CHUNK, CHUNK + 1, 1000])
@torch.no_grad()
def test_matrix_form_is_the_recurrence(layer, length: int) -> None:
    x_BLH = signal(length)
    expected = recurrence(layer, x_BLH)
    assert relative(layer(x_BLH), expected) <= FLOAT32
    assert relative(copy.deepcopy(layer).double()(x_BLH.double()), expected) <= FLOAT64


def test_spans_and_chunks_of_any_size_give_the_same(fill, monkeypatch) -> None:
    layer, x_BLH = build(fill, CONFIGS["two groups"]), signal(50)
    expected = layer(x_BLH)
    for chunk, span in ((1, 7), (3, 9), (16, 16), (64, 64)):
        monkeypatch.setattr(scan_module, "CHUNK", chunk)
        monkeypatch.setattr(scan_module, "SPAN", span)
        assert relative(layer(x_BLH), expected) <= FLOAT32


@pytest.mark.parametrize("cut", [1, 2, 64, 99])
def test_chunks_with_state_equal_the_whole(layer, cut: int) -> None:
    x_BLH, state, outputs = signal(100), layer.initial_state(2, CPU), []
    for part in (x_BLH[:, :cut], x_BLH[:, cut:]):
        out, state = layer.advance(part, state)
        outputs.append(out)
    assert relative(torch.cat(outputs, dim=1), layer(x_BLH)) <= FLOAT32


def test_gradients_agree_with_finite_differences(fill, monkeypatch) -> None:
    monkeypatch.setattr(scan_module, "CHUNK", 2)  # so that five positions are three chunks
    layer = build(fill, SSDConfig(d_state=2, d_head=2, heads_per_group=1, d_conv=2, expand=1), 4).double()
    names = [name for name, _ in layer.named_parameters()]

    def run(x_BLH: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x_BLH,))

    inputs = [signal(5, 4)[:1].double().requires_grad_()]
    inputs += [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(run, inputs)


def test_gradients_of_the_scan_reach_the_state_before(fill) -> None:
    shapes = ((1, 5, 2, 3), (1, 5, 2), (1, 5, 4), (1, 5, 4), (1, 2, 4, 3))
    x, z, b, c, h = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    inputs = [part.requires_grad_() for part in (x, -z.abs(), b, c, h)]
    assert torch.autograd.gradcheck(scan, inputs)
    assert torch.autograd.gradgradcheck(scan, inputs)


def test_runaway_parameters_and_inputs_give_finite_outputs_and_gradients(fill) -> None:
    layer = build(fill, SSDConfig(d_state=8, d_head=4, heads_per_group=1))
    with torch.no_grad():
        layer.space.dt_bias.copy_(torch.tensor([-1e4, 1e4, 1e4, 0.0]))
        layer.space.A_log.copy_(torch.tensor([1e4, 1e4, -1e4, 50.0]))
    x_BLH = signal(150) * torch.logspace(-3, 3, 150)[:, None]
    out = layer(x_BLH)
    out.square().mean().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_near_positions_keep_their_digits_after_huge_decays() -> None:
    """Decays are of differences of sums: after a sum of -1e6 a float32 would leave an error of 0.06."""
    z_BLA = torch.full((1, 8, 1), -0.1)
    z_BLA[:, 1] = -1e6
    x_BLAP, ones = torch.ones(1, 8, 1, 1), torch.ones(1, 8, 1)
    y_BLAP, _ = scan(x_BLAP, z_BLA, ones, ones, torch.ones(1, 1, 1, 1))
    decay = torch.exp(torch.tensor(-0.1, dtype=torch.float64))
    expected = sum(decay**age for age in range(7))  # nothing is left from before position 1
    torch.testing.assert_close(y_BLAP[0, -1, 0, 0].double(), expected, atol=0, rtol=5e-7)


def test_evaluation_at_any_length_changes_no_parameter(layer) -> None:
    before = {name: p.clone() for name, p in layer.named_parameters()}
    with torch.no_grad():
        first = layer(signal(30))
        layer(signal(300))
        assert torch.equal(layer(signal(30)), first)
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())


def test_state_and_space_stay_float32_under_bfloat16(fill) -> None:
    layer, x_BLH = build(fill, CONFIGS["two groups"]), signal(70)
    expected = layer(x_BLH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, state = layer.advance(x_BLH, layer.initial_state(2, CPU))
    assert out.dtype == torch.bfloat16
    assert {part.dtype for part in state} == {torch.float32}
    # only the matrices round, to 2^-9, one after the other and then multiplied: some per cent
    assert relative(out.float(), expected) <= 0.05
    low = copy.deepcopy(layer).to(torch.bfloat16)
    assert {part.dtype for part in low.initial_state(2, CPU)} == {torch.float32}
    assert low(x_BLH.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_products_in_bfloat16_cost_no_more_than_the_matrices_already_do(fill, monkeypatch) -> None:
    layer, x_BLH = build(fill, CONFIGS["two groups"]), signal(300)
    expected = recurrence(layer, x_BLH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = relative(layer(x_BLH).double(), expected)
    scan = ssd_mixer.scan
    monkeypatch.setattr(ssd_mixer, "scan", lambda *inputs: scan(*inputs[:5]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = relative(layer(x_BLH).double(), expected)
    # Both round the matrices, to 2^-9 each: half a per cent.
    assert rounded <= 2.0**-6
    assert rounded <= 1.5 * exact


def test_sizes_come_from_the_config_and_not_from_parameters(fill) -> None:
    layer = SSD(CONFIGS["two groups"], 8, Dropout(0.0))
    expected = [part.shape for part in layer.initial_state(3, CPU)]
    for parameter in layer.parameters():
        parameter.data = torch.empty(0)  # as a rank that owns no part of it has it
    assert [part.shape for part in layer.initial_state(3, CPU)] == expected
    assert {part.device.type for part in layer.initial_state(3, torch.device("meta"))} == {"meta"}


def test_compiles_without_graph_breaks(fill) -> None:
    layer = build(fill, CONFIGS["two groups"])
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert relative(compiled(signal(130)), layer(signal(130))) <= FLOAT32


def test_per_sample_gradients_by_torch_func(fill) -> None:
    layer = build(fill, CONFIGS["two groups"])
    values = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(values: dict[str, torch.Tensor], x_LH: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, values, (x_LH[None],)).square().sum()

    x_BLH = signal(9)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, x_BLH)
    for index in range(2):
        for name, gradient in torch.func.grad(loss)(values, x_BLH[index]).items():
            torch.testing.assert_close(each[name][index], gradient, atol=1e-5, rtol=1e-4)


def test_steps_are_drawn_from_the_range_and_decays_from_one_to_sixteen(fill) -> None:
    config = SSDConfig(d_state=2, d_head=1, heads_per_group=1, dt_min=1e-3, dt_max=1e-1)
    layer = build(fill, config, 512)
    dt_A, rate_A = torch.nn.functional.softplus(layer.space.dt_bias), layer.space.A_log.exp()
    # float32 through a logarithm and back
    assert 1e-3 * (1 - 1e-5) <= dt_A.min() <= 2e-3
    assert 5e-2 <= dt_A.max() <= 1e-1 * (1 + 1e-5)
    assert 1 <= rate_A.min() <= 2
    assert 15 <= rate_A.max() <= 16


def test_no_matrix_leads_from_the_width_to_a_finite_size() -> None:
    """Every matrix grows on both sides with d_model, every other tensor on one: the roles of muP fit."""
    config, sizes = SSDConfig(d_state=8, d_head=4, heads_per_group=2), []
    for d_model in (8, 16):
        with torch.device("meta"):
            layer = SSD(config, d_model, Dropout(0.0))
        sizes.append({name: p.shape for name, p in layer.named_parameters()})
    for name, fact in ssd_facts(config).items():
        growing = sum(a != b for a, b in zip(sizes[0][name], sizes[1][name], strict=True))
        assert growing == (2 if fact.role is Role.MATRIX else 1), name


def test_flops_are_two_per_weight_and_product() -> None:
    config = SSDConfig(d_state=16, d_head=8, heads_per_group=2, d_conv=4, expand=2)
    # I = 64, 8 heads, 4 groups: B and C are 64 wide each
    matrices = 2 * 32 * (64 + 64 + 128 + 8 + 64)
    assert ssd_flops(config, 32, 1000) == 2 * 64 * (64 + 64) + 4 * 16 * 64 + 8 * (64 + 128) + matrices


@pytest.mark.parametrize(
    ("ssd", "message"),
    [
        ({"d_head": 3}, "ssd.d_head 3 x heads_per_group 4 does not divide expand 2 x d_model 64"),
        ({"dt_min": 1.0, "dt_max": 0.5}, "dt_min 1.0 is above dt_max 0.5"),
        ({"d_conv": 0}, "d_conv"),
    ],
)
def test_wrong_configs_name_the_value(ssd: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BackboneSection.model_validate(
            {"type": "any", "d_model": 64, "num_layers": 1, "pattern": ("ssd",), "ssd": ssd}
        )
