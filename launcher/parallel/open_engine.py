"""From a plan to an engine, by way of a model without storage: the one place that knows all engines."""

import torch
from torch import nn

from launcher.mup.init import init_parameters
from launcher.optim.build_optimizer import build_optimizer
from launcher.parallel.across import across_ranks
from launcher.parallel.deepspeed.zero_config import zero_config
from launcher.parallel.engine import Engine
from launcher.parallel.mesh import build_mesh, replicate_model, shard_model
from launcher.parallel.recurrent_state import RecurrentState
from launcher.parallel.torch_engine import TorchEngine
from launcher.parallel.update_guard import UpdateGuard
from launcher.parallel.wrap import wrap_layers
from launcher.plan.batch import BatchShape
from launcher.plan.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.world import World
from models.auxiliary import join_ranks
from models.build_model import build_model, reset_buffers
from models.lm import LM


def open_engine(recipe: Recipe, plan: Plan, world: World) -> tuple[nn.Module, Engine]:
    """The model of a recipe with its initial values, and the engine that now owns its training.

    The order matters: shard, allocate, fill, wrap, then sort into groups, because optimizers hold the tensors
    that sharding made.
    """
    config, optim, parameters = recipe.parallel, recipe.optim, plan.parameters
    with torch.device("meta"):
        model = build_model(recipe.model, parameters.multipliers)
    _refuse_complex(model)
    join_ranks(model, across_ranks(world))
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    carries = recipe.train.truncated_bptt
    recurrent_state = _make_recurrent_state(model, plan.batch, world) if carries else None
    if config.engine == "deepspeed":
        # Imported here: it takes seconds, and no other engine needs it.
        from launcher.parallel.deepspeed.deepspeed_engine import DeepSpeedEngine

        # In host memory: DeepSpeed moves what it does not shard to the device, and shards before it moves.
        _fill(model, recipe, plan, torch.device("cpu"))
        return model, DeepSpeedEngine(
            model,
            build_optimizer(dict(model.named_parameters()), parameters.groups, optim),
            config=zero_config(config, plan.batch, parameters.num_parameters),
            grad_clip=optim.grad_clip,
            recurrent_state=recurrent_state,
            guard=UpdateGuard(recipe.guard.outliers, world),
            world=world,
        )
    # Sharded while on meta, so that a rank allocates no more than its part, whatever the model's size.
    mesh = build_mesh(config, world, plan.shard_size)
    model = shard_model(model, mesh, config, shares_kernels=not carries)
    _fill(model, recipe, plan, torch.device("cpu") if config.cpu_offload else world.device)
    return model, TorchEngine(
        replicate_model(model, config, world),
        build_optimizer(dict(model.named_parameters()), parameters.groups, optim),
        grad_clip=optim.grad_clip,
        sharpness=optim.sharpness,
        precision=config.precision,
        mesh=mesh,
        recurrent_state=recurrent_state,
        guard=UpdateGuard(recipe.guard.outliers, world),
        world=world,
    )


def _fill(model: nn.Module, recipe: Recipe, plan: Plan, device: torch.device) -> None:
    """Give a model from the meta device its storage and its initial values, whole or sharded as it now is."""
    model.to_empty(device=device)  # in place
    reset_buffers(model)
    scales = {name: scaling.init for name, scaling in plan.parameters.scalings.items()}
    init_parameters(model, plan.parameters.facts, scales, recipe.seed)
    wrap_layers(model, recipe.parallel)


def _make_recurrent_state(model: nn.Module, batch: BatchShape, world: World) -> RecurrentState:
    if not isinstance(model, LM):
        raise ValueError(f"the model is a {type(model).__name__}; only an LM's states can be carried")
    return RecurrentState(model, batch, world)


def _refuse_complex(model: nn.Module) -> None:
    """DeepSpeed drops the imaginary part with a warning; FSDP2 cannot flatten two dtypes into one buffer."""
    wrong = [name for name, parameter in model.named_parameters() if parameter.is_complex()]
    if wrong:
        raise ValueError(
            f"{len(wrong)} parameters are complex, such as {wrong[:3]}; "
            "keep real numbers with a last dimension of two (torch.view_as_real)"
        )
