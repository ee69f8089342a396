"""Optimizers: the published update, the planned groups, one state."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import Parameter

from launcher.mup.base_shapes import WidthMultiplier
from launcher.mup.scaling import MUP_UPDATES, Update, scale_mup
from launcher.optim.build_optimizer import build_optimizer
from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group, state_size
from launcher.optim.muon import orthogonalise
from models.facts import Role

TYPES: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 0.1},
    "adam": {},
    "adamw": {},
    "adagrad": {},
    "smorms3": {},
    "lion": {},
    "muon": {"others": {"lr": 3e-3}},
    "shampoo": {"others": {"lr": 3e-3}, "precondition_every": 2},
    "soap": {"others": {"lr": 3e-3}, "precondition_every": 2},
}
UPDATES: dict[str, Update] = {"muon": "spectral", "shampoo": "shampoo", "soap": "soap"}


def config(kind: str, **fields: object) -> OptimConfig:
    return TypeAdapter(OptimConfig).validate_python({"type": kind, "lr": 1e-2, **TYPES[kind], **fields})


def groups_of(kind: str, decay: float = 0.1, mup_lr_multiplier: float = 1.0) -> list[Group]:
    eps = {"sgd": None, "lion": None, "smorms3": 1e-16, "adagrad": 1e-10, "shampoo": 1e-12}.get(kind, 1e-8)
    matrix = UPDATES.get(kind, "adam")
    return [
        Group(
            name="matrix",
            lr=1e-2,
            weight_decay=decay,
            eps=None if kind == "muon" else eps,
            mup_lr_multiplier=mup_lr_multiplier,
            update=matrix,
            parameters=("up",),
        ),
        Group(
            name="vector",
            lr=3e-3,
            weight_decay=0.0,
            eps=eps,
            mup_lr_multiplier=mup_lr_multiplier,
            update="adam",
            parameters=("bias",),
        ),
    ]


def new_parameters(seed: int = 0) -> dict[str, Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "up": Parameter(torch.randn(6, 4, generator=generator)),
        "bias": Parameter(torch.randn(6, generator=generator)),
    }


def gradients(step: int) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in new_parameters(seed=100 + step).items()}


def run(optimizer: torch.optim.Optimizer, parameters: dict[str, Parameter], steps: range) -> None:
    for step in steps:
        for name, gradient in gradients(step).items():
            parameters[name].grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("kind", TYPES)
def test_one_group_per_planned_group_with_its_rate(kind: str) -> None:
    optimizer = build_optimizer(new_parameters(), groups_of(kind), config(kind))
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ("matrix", 1e-2, 0.1),
        ("vector", 3e-3, 0.0),
    ]


@pytest.mark.parametrize("kind", TYPES)
def test_state_restored_into_a_new_optimizer_continues_bit_for_bit(kind: str) -> None:
    whole = new_parameters()
    optimizer = build_optimizer(whole, groups_of(kind), config(kind))
    run(optimizer, whole, range(4))

    first = new_parameters()
    before = build_optimizer(first, groups_of(kind), config(kind))
    run(before, first, range(2))
    second = {name: Parameter(p.detach().clone()) for name, p in first.items()}
    after = build_optimizer(second, groups_of(kind), config(kind))
    for name, p in second.items():
        after.state[p].update({key: value.clone() for key, value in before.state[first[name]].items()})
    run(after, second, range(2, 4))
    assert all(torch.equal(whole[name], second[name]) for name in whole)


@pytest.mark.parametrize("kind", TYPES)
def test_torchs_own_state_dict_continues_bit_for_bit(kind: str) -> None:
    whole = new_parameters()
    optimizer = build_optimizer(whole, groups_of(kind), config(kind))
    run(optimizer, whole, range(4))
    first = new_parameters()
    before = build_optimizer(first, groups_of(kind), config(kind))
    run(before, first, range(2))
    second = {name: Parameter(p.detach().clone()) for name, p in first.items()}
    after = build_optimizer(second, groups_of(kind), config(kind))
    after.load_state_dict(before.state_dict())
    run(after, second, range(2, 4))
    assert all(torch.equal(whole[name], second[name]) for name in whole)


@pytest.mark.parametrize("kind", TYPES)
def test_state_is_as_large_as_planned(kind: str) -> None:
    parameters = new_parameters()
    optimizer = build_optimizer(parameters, groups_of(kind), config(kind))
    run(optimizer, parameters, range(1))
    for group in groups_of(kind):
        p = parameters[group.parameters[0]]
        expected = state_size(config(kind), group.update, tuple(p.shape))
        count = sum(value.numel() for value in optimizer.state[p].values() if value.numel() > 1)
        assert count == expected.sharded + expected.whole


@pytest.mark.parametrize("kind", TYPES)
def test_a_zero_rate_moves_nothing(kind: str) -> None:
    parameters = new_parameters()
    optimizer = build_optimizer(parameters, groups_of(kind), config(kind))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    run(optimizer, parameters, range(3))
    assert all(torch.equal(p, new_parameters()[name]) for name, p in parameters.items())


def test_a_parameter_that_no_group_places_is_named() -> None:
    with pytest.raises(ValueError, match="extra"):
        build_optimizer(
            new_parameters() | {"extra": Parameter(torch.zeros(1))}, groups_of("adamw"), config("adamw")
        )


def test_lion_is_algorithm_2() -> None:
    parameters = new_parameters()
    optimizer = build_optimizer(parameters, groups_of("lion"), config("lion", betas=(0.9, 0.99)))
    run(optimizer, parameters, range(3))
    p, m = new_parameters()["up"].detach().double(), torch.zeros(6, 4, dtype=torch.float64)
    for step in range(3):
        g = gradients(step)["up"].double()
        p = p - 1e-2 * (torch.sign(0.9 * m + 0.1 * g) + 0.1 * p)
        m = 0.99 * m + 0.01 * g
    torch.testing.assert_close(parameters["up"].double(), p, rtol=1e-6, atol=1e-6)  # float32 rounding


def smorms3_reference(steps: int, lr: float, factor: float) -> torch.Tensor:
    """The author's listing, in float64, its whole step times a width factor."""
    p = new_parameters()["up"].detach().double()
    mem, g, g2 = torch.ones_like(p), torch.zeros_like(p), torch.zeros_like(p)
    for step in range(steps):
        grad, r = gradients(step)["up"].double(), 1 / (mem + 1)
        g, g2 = (1 - r) * g + r * grad, (1 - r) * g2 + r * grad**2
        p = p - factor * grad * torch.minimum(torch.tensor(lr), g**2 / (g2 + 1e-16)) / (g2.sqrt() + 1e-16)
        mem = 1 + mem * (1 - g**2 / (g2 + 1e-16))
    return p


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_smorms3_is_the_authors_listing_times_the_width_factor(factor: float) -> None:
    parameters = new_parameters()
    groups = groups_of("smorms3", mup_lr_multiplier=factor)
    optimizer = build_optimizer(parameters, groups, config("smorms3"))
    run(optimizer, parameters, range(4))
    expected = smorms3_reference(4, lr=1e-2 / factor, factor=factor)
    torch.testing.assert_close(parameters["up"].double(), expected, rtol=1e-6, atol=1e-6)  # float32 rounding


def test_smorms3_first_step_is_root_two_times_the_rate() -> None:
    """r = 1/2 makes g^2 / g2 = 1/2 > lr and grad / sqrt(g2) = sqrt(2) sign(grad)."""
    parameters = new_parameters()
    run(build_optimizer(parameters, groups_of("smorms3"), config("smorms3")), parameters, range(1))
    moved = parameters["up"] - new_parameters()["up"]
    torch.testing.assert_close(moved.abs(), torch.full((6, 4), 1e-2 * math.sqrt(2)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs(nesterov: bool) -> None:
    """torch iterates in bfloat16, we on a CPU in float32: equal up to 2^-8 of an update's entries of about
    1."""
    parameters = new_parameters()
    settings = config("muon", nesterov=nesterov)
    run(build_optimizer(parameters, groups_of("muon"), settings), parameters, range(3))
    reference = new_parameters()["up"]
    torchs = torch.optim.Muon([reference], lr=1e-2, weight_decay=0.1, momentum=0.95, nesterov=nesterov)
    for step in range(3):
        reference.grad = gradients(step)["up"]
        torchs.step()
    # 6 x 4 is tall, where torch's sqrt(max(1, out/in)) is our sqrt(out/in); five steps each round entries of
    # 1
    torch.testing.assert_close(parameters["up"], reference, rtol=0, atol=3 * 1e-2 * 5 * 2**-8)


def test_muon_leaves_the_rest_to_adamw() -> None:
    parameters, reference = new_parameters(), new_parameters()["bias"]
    run(build_optimizer(parameters, groups_of("muon"), config("muon")), parameters, range(3))
    adamw = torch.optim.AdamW([reference], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step in range(3):
        reference.grad = gradients(step)["bias"]
        adamw.step()
    assert torch.equal(parameters["bias"], reference)


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256)])
@pytest.mark.parametrize("width", [1, 4])
def test_muons_update_has_the_spectral_norm_that_the_rule_assumes(shape: tuple[int, int], width: int) -> None:
    """`spectral`: norm sqrt(fan_out/fan_in) at any width; Newton-Schulz leaves singular values in [0.68,
    1.21]."""
    out, in_ = shape[0] * width, shape[1] * width
    generator = torch.Generator().manual_seed(1)
    update = orthogonalise(torch.randn(out, in_, generator=generator), 5, torch.float32)
    assert 0.68 <= float(torch.linalg.matrix_norm(update, 2)) <= 1.21
    # entries: Frobenius norm sqrt(min) spread over out x in, so rms x sqrt(max) is about 1 (`rms`: 0.2 after
    # scaling)
    rms = float(update.square().mean().sqrt()) * math.sqrt(max(out, in_))
    assert 0.68 <= rms <= 1.21


def square(step: int) -> torch.Tensor:
    """A full-rank matrix: eigenvectors of a rank-deficient first moment would not be unique."""
    return torch.randn(5, 5, generator=torch.Generator().manual_seed(step)).double()


def soap_reference(sides: str, steps: int) -> torch.Tensor:
    """Algorithm 3 of arXiv 2409.11321 with bias correction, as plainly as it can be written."""
    p, L, R = square(99), torch.zeros(5, 5).double(), torch.zeros(5, 5).double()
    M, V = torch.zeros(5, 5).double(), torch.zeros(5, 5).double()
    for step in range(steps):
        G = square(step)
        L, R = 0.95 * L + 0.05 * G @ G.T, 0.95 * R + 0.05 * G.T @ G
        if step == 0:
            QL, QR = torch.linalg.eigh(L)[1], torch.linalg.eigh(R)[1]
        right = QR if sides == "both" else torch.eye(5).double()
        M, V = 0.95 * M + 0.05 * G, 0.95 * V + 0.05 * (QL.T @ G @ right) ** 2
        N = (QL.T @ M @ right) / (1 - 0.95 ** (step + 1))
        N = N / ((V / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
        p = p * (1 - 1e-3) - 1e-2 * QL @ N @ right.T
        if step > 0 and step % 2 == 0:
            QL, QR = torch.linalg.qr(L @ QL)[0], torch.linalg.qr(R @ QR)[0]
    return p


@pytest.mark.parametrize("sides", ["both", "left"])
def test_soap_is_algorithm_3(sides: str) -> None:
    p, groups = Parameter(square(99)), groups_of("soap")
    optimizer = build_optimizer({"up": p}, groups[:1], config("soap", sides=sides))
    for step in range(5):
        p.grad = square(step)
        optimizer.step()
    # signs of eigenvectors cancel in Q N Q^T; rounding of 1e-16 is divided by the smallest V^1/2, about 1e-6
    torch.testing.assert_close(p.detach(), soap_reference(sides, 5), rtol=0, atol=1e-7)


def test_shampoos_first_update_is_the_orthogonal_factor() -> None:
    """L = G G^T and R = G^T G make L^-1/4 G R^-1/4 = U V^T, up to eps."""
    parameters = new_parameters()
    run(build_optimizer(parameters, groups_of("shampoo", decay=0.0), config("shampoo")), parameters, range(1))
    moved = (new_parameters()["up"] - parameters["up"]).detach() / 1e-2
    U, _, Vh = torch.linalg.svd(gradients(0)["up"], full_matrices=False)
    # differences of float32 parameters of order 1, divided by 1e-2
    torch.testing.assert_close(moved, U @ Vh, rtol=0, atol=1e-4)


RANK_ONE = {
    "sgd": ("sgd", {"momentum": 0.0}),
    "adam": ("adam", {}),
    "sign": ("lion", {}),
    "smorms3": ("smorms3", {}),
    "spectral": ("muon", {}),
    "unit_rms": ("muon", {"scale": "rms"}),
    "shampoo": ("shampoo", {}),
}


def first_change(update: Update, fan_out: int, fan_in: int) -> float:
    """Spectral norm of a first step at the rule's rate on the gradient that a hidden matrix has at that
    width.

    Rank one, with coordinates of order 1 / fan_out after it and of order 1 before it (arXiv 2310.17813,
    section 2).
    """
    kind, fields = RANK_ONE[update]
    generator = torch.Generator().manual_seed(0)
    out, in_ = torch.randn(fan_out, generator=generator), torch.randn(fan_in, generator=generator)
    # float64: SOAP takes what rounding leaves outside the one direction for signal, if it is not far below
    # eps
    p = Parameter(torch.zeros(fan_out, fan_in).double())
    p.grad = torch.outer(out / fan_out, in_).double()
    scaling = scale_mup(
        Role.MATRIX, WidthMultiplier(fan_in=fan_in / 32, fan_out=fan_out / 32, num_infinite=2), update
    )
    settings = config(kind, **fields)
    eps = None if kind in ("sgd", "lion", "muon") else settings.eps * scaling.eps
    group = Group(
        name="matrix",
        lr=1e-2 * scaling.lr,
        weight_decay=0.0,
        eps=eps,
        mup_lr_multiplier=scaling.lr,
        update=update,
        parameters=("w",),
    )
    build_optimizer({"w": p}, [group], settings).step()
    return float(torch.linalg.matrix_norm(p.detach(), 2))


@pytest.mark.parametrize("update", RANK_ONE)
@pytest.mark.parametrize(("fan_out", "fan_in"), [(256, 256), (512, 128), (128, 512)])
def test_the_rates_rule_keeps_every_update_at_the_spectral_condition(
    update: Update, fan_out: int, fan_in: int
) -> None:
    """The norm of a change must go as sqrt(fan_out / fan_in): the derivation of every row of a hidden
    matrix."""
    assert set(RANK_ONE) == set(MUP_UPDATES) - {"soap"}, "SOAP's rule is measured, not derived"
    if update == "unit_rms" and fan_in != fan_out:
        pytest.skip("refused by check_updates: its rule holds where both sides grow alike")
    ratio = first_change(update, fan_out, fan_in) / first_change(update, 32, 32)
    # norms of Gaussian vectors of 32 numbers stray by 1/sqrt(64) = 1/8 each, three standard deviations of
    # two of them;
    # Newton-Schulz leaves its singular value within 0.68 to 1.21
    assert ratio / math.sqrt(fan_out / fan_in) == pytest.approx(1.0, rel=0.55)


@pytest.mark.parametrize("sides", ["both", "left"])
@pytest.mark.parametrize("size", [16, 64])
def test_soaps_update_has_entries_of_order_one_where_gradients_have_full_rank(sides: str, size: int) -> None:
    """As Adam's, whatever the width: why its rate is Adam's. An orthogonal basis keeps the root mean
    square."""
    generator = torch.Generator().manual_seed(0)
    p = Parameter(torch.zeros(size, size))
    group = replace(groups_of("soap", decay=0.0)[0], lr=1.0, parameters=("w",))
    optimizer = build_optimizer({"w": p}, [group], config("soap", sides=sides, betas=(0.0, 0.9)))
    for _ in range(20):
        p.grad = torch.randn(size, size, generator=generator) / size
        before = p.detach().clone()
        optimizer.step()
    rms = float((p.detach() - before).square().mean().sqrt())
    assert rms == pytest.approx(1.0, rel=0.3)  # a squared entry over its average of ten squared others
