"""From a model without storage and a recipe's choices to an engine: the one place that knows all engines."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from launcher.optim.build_optimizer import build_optimizer
from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group
from launcher.parallel.config import ParallelConfig
from launcher.parallel.deepspeed.zero_config import zero_config
from launcher.parallel.engine import Engine
from launcher.parallel.mesh import build_mesh, replicate_model, shard_model
from launcher.parallel.recurrent_state import RecurrentState
from launcher.parallel.torch_engine import TorchEngine
from launcher.parallel.wrap import wrap_layers
from launcher.plan.batch import BatchShape
from launcher.world import World
from models.build_model import reset_buffers
from models.lm import LM


def build_engine(
    model: nn.Module,
    *,
    config: ParallelConfig,
    optim: OptimConfig,
    groups: Sequence[Group],
    initialise: Callable[[nn.Module], None],
    batch: BatchShape,
    shard_size: int,
    carries: bool,
    world: World,
) -> Engine:
    """Shard a model that is on the meta device, give it its initial values, and take it over.

    `initialise` fills parameters that may be sharded. The order matters: shard, allocate, fill, wrap, then
    sort into groups, because optimizers hold the tensors that sharding made. `carries`: a language model's
    states continue from step to step.
    """
    _refuse_complex(model)
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    recurrent_state = _make_recurrent_state(model, batch, world) if carries else None
    if config.engine == "deepspeed":
        # Imported here: it takes seconds, and no other engine needs it.
        from launcher.parallel.deepspeed.deepspeed_engine import DeepSpeedEngine

        # In host memory: DeepSpeed moves what it does not shard to the device, and shards before it moves.
        model = model.to_empty(device="cpu")
        reset_buffers(model)
        initialise(model)
        wrap_layers(model, config)
        return DeepSpeedEngine(
            model,
            build_optimizer(dict(model.named_parameters()), groups, optim),
            config=zero_config(config, batch),
            grad_clip=optim.grad_clip,
            recurrent_state=recurrent_state,
            world=world,
        )
    # Sharded while on meta, so that a rank allocates no more than its part, whatever the model's size.
    mesh = build_mesh(config, world, shard_size)
    model = shard_model(model, mesh, config)
    model = model.to_empty(device="cpu" if config.cpu_offload else world.device)
    reset_buffers(model)
    initialise(model)
    wrap_layers(model, config)
    return TorchEngine(
        replicate_model(model, config, world),
        build_optimizer(dict(model.named_parameters()), groups, optim),
        grad_clip=optim.grad_clip,
        precision=config.precision,
        mesh=mesh,
        recurrent_state=recurrent_state,
        world=world,
    )


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
