"""Against mup 1.0.0: where it is right we agree number by number; each of its defects has a test here."""

from pathlib import Path

import pytest
import torch
from torch import nn

from launcher.mup.base_shapes import (
    WidthMultiplier,
    compare_shapes,
    find_base_shapes,
    measure_width_multipliers,
)
from launcher.mup.bsh import dump_base_shapes, read_base_shapes
from launcher.mup.scaling import Update, scale_mup
from models.facts import Role

mup = pytest.importorskip(
    "mup", reason="mup is not installed (make test installs it without its dependencies)"
)

BASE, DELTA, TARGET = 8, 16, 32
LR, DECAY = 1e-2, 0.1
ROLES = {
    "embedding": Role.EMBEDDING,
    "signal": Role.EMBEDDING,
    "position": Role.EMBEDDING,
    "up": Role.MATRIX,
    "down": Role.MATRIX,
    "conv": Role.MATRIX,
    "norm": Role.VECTOR,
    "readout": Role.READOUT,
}


class Net(nn.Module):
    """One of every kind of parameter that both can name; never run, only measured."""

    def __init__(self, width: int, *, expand: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.signal = nn.Linear(3, width)
        self.position = nn.Parameter(torch.randn(5, width))
        self.up = nn.Linear(width, expand * width)
        self.down = nn.Linear(expand * width, width, bias=False)
        self.conv = nn.Conv1d(width, 2 * width, 3)
        self.norm = nn.LayerNorm(width)
        self.readout = mup.MuReadout(width, 7)


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in net.named_parameters()}


def role(name: str) -> Role:
    return Role.VECTOR if name.endswith("bias") else ROLES[name.split(".")[0]]


def widths(target: nn.Module) -> dict[str, WidthMultiplier]:
    return measure_width_multipliers(shapes(target), find_base_shapes(shapes(Net(BASE)), shapes(Net(DELTA))))


def mup_net(**fields: int) -> Net:
    net = Net(TARGET, **fields)
    mup.set_base_shapes(net, Net(BASE), delta=Net(DELTA))
    return net


def groups(optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, tuple[float, float]]:
    return {p: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize(("optimizer", "update"), [("MuAdamW", "adam"), ("MuAdam", "adam"), ("MuSGD", "sgd")])
@pytest.mark.parametrize("expand", [4, 8])
def test_rates_and_decays_agree(optimizer: str, update: Update, expand: int) -> None:
    """Expand 8 against a base of 4: fan-in and fan-out of a matrix grow by different factors."""
    net = mup_net(expand=expand)
    theirs = groups(getattr(mup, optimizer)(net.parameters(), lr=LR, weight_decay=DECAY))
    for name, p in net.named_parameters():
        ours = scale_mup(role(name), widths(net)[name], update)
        # a factor and its use may each be rounded once: 2^-53 relative
        assert (LR * ours.lr, DECAY * ours.weight_decay) == pytest.approx(theirs[p], rel=1e-15), name


def test_lion_and_others_of_adams_kind_follow_their_advice() -> None:
    """Their docstring: entrywise normalised optimizers take MuAdam(impl=...)."""
    net = mup_net()
    theirs = groups(mup.MuAdam(net.parameters(), impl=torch.optim.Adagrad, lr=LR))
    for name, p in net.named_parameters():
        for update in ("adam", "sign", "smorms3"):
            assert LR * scale_mup(role(name), widths(net)[name], update).lr == pytest.approx(theirs[p][0])


def test_infinite_dimensions_agree() -> None:
    net = mup_net()
    ours = find_base_shapes(shapes(Net(BASE)), shapes(Net(DELTA)))
    assert {name: tuple(p.infshape.base_shape()) for name, p in net.named_parameters()} == ours


def test_the_readouts_initial_values_and_output_agree() -> None:
    torch.manual_seed(0)
    plain = Net(TARGET).readout.weight.detach().clone()
    torch.manual_seed(0)
    net = mup_net_from(Net(TARGET))
    ours = scale_mup(Role.READOUT, widths(net)["readout.weight"], "adam")
    assert torch.equal(net.readout.weight, plain * ours.init)
    x = torch.randn(2, TARGET)
    expected = net.readout(x)
    logits = nn.functional.linear(x * ours.forward, plain * ours.init, net.readout.bias)
    torch.testing.assert_close(logits, expected)


def mup_net_from(net: Net) -> Net:
    mup.set_base_shapes(net, Net(BASE), delta=Net(DELTA))
    return net


def test_base_shape_files_go_both_ways(tmp_path: Path) -> None:
    ours = find_base_shapes(shapes(Net(BASE)), shapes(Net(DELTA)))
    mine, its = tmp_path / "ours.bsh", tmp_path / "theirs.bsh"
    mine.write_text(dump_base_shapes(ours))
    loaded = mup.shape.load_base_shapes(str(mine))
    assert {name: tuple(infshape.base_shape()) for name, infshape in loaded.items()} == ours
    mup.set_base_shapes(Net(TARGET), str(mine))
    mup.make_base_shapes(Net(BASE), Net(DELTA), savefile=str(its))
    assert read_base_shapes(str(its)) == ours
    without_hash = [line for line in mine.read_text().splitlines() if not line.startswith("# sha256:")]
    assert without_hash == its.read_text().splitlines()


# Defects of mup 1.0.0, and what happens here instead.


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4096, width)
        self.readout = mup.MuSharedReadout(self.embedding.weight, bias=False)


def test_defect_a_tied_table_starts_larger_with_width() -> None:
    """microsoft/mup issue 55: the readout's rescaling hits the embedding. Ours leaves it as at the base."""
    net = Tied(TARGET)
    mup.set_base_shapes(net, Tied(BASE), delta=Tied(DELTA))
    # std of 131072 standard normal numbers: 0.2 % is one standard deviation
    assert float(net.embedding.weight.detach().std()) == pytest.approx((TARGET / BASE) ** 0.5, rel=0.01)
    scaling = scale_mup(Role.TIED, WidthMultiplier(fan_in=4.0, fan_out=4.0, num_infinite=1), "adam")
    assert (scaling.init, scaling.forward, scaling.lr) == (1.0, 1 / 4, 1.0)


def test_defect_adamw_without_a_decay_trains_with_none() -> None:
    """torch's AdamW decays by 0.01 by default; a recipe's adamw decays by what it prints."""
    optimizer = mup.MuAdamW(mup_net().parameters(), lr=LR)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_defect_biases_and_norms_decay() -> None:
    """Ours decay as their facts say (tests/launcher/optim/test_groups.py): weights of layers only."""
    net = mup_net()
    theirs = groups(mup.MuAdamW(net.parameters(), lr=LR, weight_decay=DECAY))
    assert theirs[net.norm.weight][1] == theirs[net.up.bias][1] == DECAY


class Transposed(nn.Module):
    """Stored as (in, out, kernel): fan-in grows 4 times, fan-out 8 times between base and target."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(width, factor * width, 3, bias=False)


def transposed() -> tuple[nn.Module, dict[str, WidthMultiplier]]:
    net, base, delta = Transposed(TARGET, 4), Transposed(BASE, 2), Transposed(DELTA, 2)
    mup.set_base_shapes(net, base, delta=delta)
    base_shapes = find_base_shapes(shapes(base), shapes(delta))
    return net, measure_width_multipliers(shapes(net), base_shapes, {"up.weight": 0})


def test_defect_transposed_convolutions_get_the_rate_of_the_wrong_side() -> None:
    net, ours = transposed()
    theirs = groups(mup.MuAdam(net.parameters(), lr=LR))
    assert theirs[net.get_parameter("up.weight")][0] == LR / 8
    assert scale_mup(Role.MATRIX, ours["up.weight"], "adam").lr == 1 / 4


def test_defect_sgd_ignores_which_dimension_is_said_to_be_fan_in() -> None:
    """main_idx changes Adam's rate but not SGD's ratio; here one fact serves both."""
    net, ours = transposed()
    net.get_parameter("up.weight").infshape.main_idx = 0
    theirs = groups(mup.MuSGD(net.parameters(), lr=LR))
    assert theirs[net.get_parameter("up.weight")][0] == LR * 4 / 8
    assert scale_mup(Role.MATRIX, ours["up.weight"], "sgd").lr == 8 / 4


def test_defect_names_lose_letters_with_the_wrappers_prefix() -> None:
    """Ours: tests/launcher/mup/test_bsh.py, names from inside a wrapper."""
    renamed, _ = mup.shape._dataparallel_hack({"module.mlp.weight": (8,)}, {"mlp.weight": (8,)})
    assert list(renamed) == ["p.weight"]


def test_defect_shapes_of_different_length_are_equal() -> None:
    one, two = mup.InfShape.from_base_shape([8]), mup.InfShape.from_base_shape([8, 4])
    assert one == two
    assert compare_shapes({"w": (8,)}, {"w": (8, 4)}) == ["w: (8) in the checkpoint, (8, 4) in the recipe"]


def test_defect_finite_tensors_cannot_be_filled_with_ones() -> None:
    """Their init asserts on them; ours draws every tensor by its facts, whatever grows."""
    net = mup_net()
    net.norm.weight.infshape = mup.InfShape.from_base_shape([None])
    with pytest.raises(AssertionError):
        mup.init.ones_(net.norm.weight)
