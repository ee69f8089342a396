"""Facts are kept by name: whatever wraps, copies or shards a model, every parameter keeps its group and its
rate.

The attributes that the mup package sets on tensors are lost in deepcopy, AveragedModel, to_empty and FSDP2.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from launcher.mup.config import MupConfig
from launcher.mup.init import init_parameters
from launcher.optim.build_optimizer import build_optimizer
from launcher.optim.config import OptimConfig
from launcher.parallel.config import ParallelConfig
from launcher.parallel.mesh import build_mesh, plain_name, shard_model
from launcher.parallel.wrap import wrap_layers
from launcher.plan.parameters import Parameters, describe_parameters
from launcher.world import World
from models.build_model import build_model
from models.config import LMConfig, S4DConfig
from tests.launcher.optim.test_groups import TYPES, config
from tests.ranks import run_ranks

# Odd widths and two layers: no world size divides them, and the tail of a shard is shorter or empty.
MODEL = LMConfig(
    type="lm", vocab_size=7, d_model=10, num_layers=2, pattern=("s4d", "ffn"), s4d=S4DConfig(d_state=4)
)
MUP = MupConfig(type="mup", base_width=5)


def describe(optim: OptimConfig) -> Parameters:
    return describe_parameters(MODEL, MUP, optim, seq_len=32)


def new_model(parameters: Parameters) -> nn.Module:
    with torch.device("meta"):
        model = build_model(MODEL, parameters.multipliers)
    return fill(model.to_empty(device="cpu"), parameters)


def fill(model: nn.Module, parameters: Parameters) -> nn.Module:
    init_parameters(model, parameters.facts, {n: s.init for n, s in parameters.scalings.items()}, seed=1)
    return model


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    return {plain_name(name): p for name, p in model.named_parameters()}


def rates(model: nn.Module, parameters: Parameters, optim: OptimConfig) -> dict[str, tuple[float, float]]:
    """(lr, weight decay) that the optimizer holds for each parameter."""
    live = named(model)
    optimizer = build_optimizer(live, parameters.groups, optim)
    held = {p: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    return {name: held[p] for name, p in live.items()}


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "EMA": lambda model: AveragedModel(model, use_buffers=True),
    "compile and checkpointing": lambda model: layers_wrapped(copy.deepcopy(model)),
    "state_dict": lambda model: reloaded(model),
}


def layers_wrapped(model: nn.Module) -> nn.Module:
    wrap_layers(model, ParallelConfig(compile=True, activation_checkpointing="full"))
    return model


def reloaded(model: nn.Module) -> nn.Module:
    with torch.device("meta"):
        other = build_model(MODEL)
    other.load_state_dict(model.state_dict(), assign=True)
    return other


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_rates_survive_copies_and_wrappers(wrapper: str) -> None:
    optim = config("adamw")
    parameters = describe(optim)
    model = new_model(parameters)
    wrapped = WRAPPERS[wrapper](model)
    assert rates(wrapped, parameters, optim) == rates(model, parameters, optim)
    assert len({lr for lr, _ in rates(wrapped, parameters, optim).values()}) == 3  # capped, matrix, all else


def gradients(parameters: Parameters, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=generator) for name, shape in parameters.shapes.items()}


def take_steps(model: nn.Module, optim: OptimConfig, parameters: Parameters) -> dict[str, torch.Tensor]:
    """Three steps with the same whole gradients everywhere; the whole parameters after them."""
    live = named(model)
    optimizer = build_optimizer(live, parameters.groups, optim)
    for step in range(3):
        for name, gradient in gradients(parameters, step).items():
            p = live[name]
            if isinstance(p, DTensor):
                gradient = distribute_tensor(gradient, p.device_mesh, p.placements, src_data_rank=None)
            p.grad = gradient  # type: ignore[assignment]
        optimizer.step()
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for name, p in live.items()
    }


def differences(world: World, strategy: str) -> dict[str, float]:
    """Largest difference between sharded and unsharded parameters after three steps, per optimizer."""
    sharding = ParallelConfig(strategy=strategy)
    mesh = build_mesh(sharding, world, shard_size=2 if strategy == "hsdp" else world.size)
    found = {}
    for kind in TYPES:
        optim = config(kind)
        parameters = describe(optim)
        with torch.device("meta"):
            model = build_model(MODEL, parameters.multipliers)
        if strategy == "ddp":
            model = DistributedDataParallel(new_model(parameters))
        else:
            model = fill(
                shard_model(model, mesh, sharding, shares_kernels=False).to_empty(device="cpu"), parameters
            )
        expected = take_steps(new_model(parameters), optim, parameters)
        values = take_steps(model, optim, parameters)
        assert sorted(values) == sorted(expected)
        found[kind] = max(float((values[name] - expected[name]).abs().max()) for name in expected)
    return found


@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 2), ("fsdp2", 3), ("hsdp", 4)])
def test_a_sharded_step_is_the_unsharded_one_for_every_optimizer(strategy: str, ranks: int) -> None:
    """Every operation is elementwise or on gathered matrices, so 1e-6 is for the order in fused kernels."""
    for found in run_ranks(ranks, differences, strategy):
        assert set(found) == set(TYPES)
        assert max(found.values()) <= 1e-6, found
