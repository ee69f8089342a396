"""Memory of a rank, by what takes it, at the worst moment of a step. Arithmetic only: no model is run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from launcher.optim.optimizer_table import optimizer_kind
from launcher.parallel.config import BUCKET, ParallelConfig
from launcher.recipe.schema import Recipe
from models.build_model import ModelFootprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes per rank of what lasts from step to step, gradients included."""

    parameters: float
    gradients: float
    optimizer: float
    carried: float = 0.0
    """States that continue in the next step (train.truncated_bptt)."""

    @property
    def total(self) -> float:
        """Sum of the above."""
        return self.parameters + self.gradients + self.optimizer + self.carried


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Bytes per rank at one moment of a step, beside parameters and the optimizer's state."""

    name: str
    gradients: float
    activations: float = 0.0
    """What autograd keeps."""
    working: float = 0.0
    """What the operation that runs needs besides."""
    gathered: float = 0.0
    """Whole parameters of sharded units."""

    @property
    def total(self) -> float:
        """Sum of the above."""
        return self.gradients + self.activations + self.working + self.gathered


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The worst moment of a step, and what lasts beside it."""

    parameters: float
    optimizer: float
    """Its state."""
    carried: float
    """States that continue in the next step."""
    buffers: float
    """Of communication."""
    moment: Moment

    @property
    def lasting(self) -> float:
        """What is there from step to step, gradients aside."""
        return self.parameters + self.optimizer + self.carried

    @property
    def total(self) -> float:
        """Bytes per rank."""
        return self.lasting + self.buffers + self.moment.total


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Bytes of whole parameters in float32: of each residual layer, and of the rest; and their largest."""

    layers: tuple[float, ...]
    rest: float
    largest: float

    @property
    def whole(self) -> float:
        """All of them."""
        return sum(self.layers) + self.rest


def units_of(shapes: Mapping[str, tuple[int, ...]], num_layers: int) -> Units:
    """Sort parameters into units, by their names."""
    layers, rest = [0.0] * num_layers, 0.0
    for name, shape in shapes.items():
        part, _, inside = name.partition(".")
        if part == "layers":
            layers[int(inside.partition(".")[0])] += 4.0 * math.prod(shape)
        else:
            rest += 4.0 * math.prod(shape)
    return Units(layers=tuple(layers), rest=rest, largest=max(4.0 * math.prod(s) for s in shapes.values()))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How a rank holds parameters and gradients; bytes."""

    size: int
    """Ranks that share one copy of the parameters."""
    gradient_size: float
    """Ranks that share one copy of the gradients, once they are reduced."""
    held: float
    """Gradients that are there all the time: in buckets, or until the last micro batch is reduced."""
    buffers: float
    """Of communication, all the time."""
    copies: float
    """In the optimizer's step, where it is logged: weights as they were, to say by how much they moved."""
    unit_share: float
    offloaded: bool
    """Whether parameters, reduced gradients and moments are in host memory."""


def unit_share(config: ParallelConfig) -> float:
    """Bytes of a gathered unit for each of its bytes in float32: half where matrices travel in bfloat16."""
    return 0.5 if config.engine == "torch" and config.precision == "bf16" and not config.compile else 1.0


def sharding_of(recipe: Recipe, units: Units, shard_size: int, world_size: int, num_micro: int) -> Sharding:
    """As mesh.shard_model, DDP and ZeRO do it. What ZeRO has beside shards was measured."""
    config, whole, part = recipe.parallel, units.whole, units.whole / world_size
    largest = 2 * max(units.layers)
    if config.engine == "deepspeed":
        bucket = 4.0 * min(BUCKET, whole / 4)
        stage = config.zero_stage or 0
        return Sharding(
            size=shard_size,
            gradient_size=world_size if stage >= 2 else 1,
            held=whole if stage < 2 else 0.0,
            buffers=(0.0, 0.0, bucket + part, 2 * bucket + largest)[stage],
            copies=(whole, 2 * part, 2 * part, whole + part)[stage],
            unit_share=unit_share(config),
            offloaded=False,
        )
    replicated = config.strategy == "ddp" and world_size > 1
    waits = whole if num_micro > 1 else 0.0
    away = config.cpu_offload and shard_size > 1
    return Sharding(
        size=shard_size,
        gradient_size=math.inf if away else shard_size,
        held=waits + (whole if replicated else 0.0),
        buffers=largest if shard_size > 1 else 0.0,
        copies=0.0 if away else whole / shard_size,
        unit_share=unit_share(config),
        offloaded=away,
    )


def find_peak(
    memory: Memory, model: ModelFootprint, units: Units, sharding: Sharding, recipe: Recipe, num_micro: int
) -> Peak:
    """The worst moment of a step."""
    here = 0.0 if sharding.offloaded else 1.0
    # Selective recomputation keeps products and transforms, which is most: counted as if it kept everything.
    recomputes = recipe.parallel.activation_checkpointing == "full"
    room = 0.0 if optimizer_kind(recipe.optim).in_place else 2 * units.largest
    update = Moment(name="update", gradients=here * memory.gradients, working=sharding.copies + room)
    passes = list(_moments(model, units, sharding, recomputes=recomputes, num_micro=num_micro))
    moments = [*passes, update]
    if recipe.track.diagnosis is not None and recipe.track.diagnosis.sharpness:
        moments += _for_sharpness(
            passes, here * memory.parameters, in_half=recipe.parallel.precision == "bf16"
        )
    return Peak(
        parameters=here * memory.parameters,
        optimizer=here * memory.optimizer,
        carried=memory.carried,
        buffers=sharding.buffers,
        moment=max(moments, key=lambda moment: moment.total),
    )


def _for_sharpness(passes: Sequence[Moment], weights: float, *, in_half: bool) -> Iterator[Moment]:
    """The same passes as edge.py takes them: in float32, beside eight vectors as large as the weights."""
    for one in passes:
        more = {"activations": one.activations * (2 if in_half else 1), "working": one.working + 8 * weights}
        yield replace(one, name=f"sharpness, {one.name}", **more)


def _moments(
    model: ModelFootprint, units: Units, sharding: Sharding, *, recomputes: bool, num_micro: int
) -> Iterator[Moment]:
    """From the loss back to the first layer."""
    kept = [model.stream if recomputes else layer.saved for layer in model.layers]
    saved = model.encoder + sum(kept)
    held, sharded = sharding.held, sharding.size > 1
    # Kernels that micro batches share are there all the time, with the gradient of the earlier ones.
    taps = sum(kernels.taps for kernels in model.kernels)
    shared = taps * (2 if num_micro > 1 else 1)
    root = sharding.unit_share * units.rest if sharded else 0.0
    done = 0.0  # of gradients, each rank's part
    yield Moment(
        name="loss",
        gradients=held,
        activations=saved + model.head.saved + shared,
        working=model.head.working,
        gathered=root,
    )
    done += units.rest / sharding.gradient_size
    for index in reversed(range(len(kept))):
        unit = units.layers[index]
        neighbours = unit + (units.layers[index - 1] if index else 0.0)
        layer = model.layers[index]
        # A sharded unit's gradient is whole until it is reduced, from a copy.
        whole = 2 * unit if sharding.gradient_size > 1 else unit
        again = layer.saved if recomputes else 0.0
        shared += model.kernels[index].taps  # its gradient
        yield Moment(
            name=f"backward of layer {index}",
            gradients=held + unit if held else done + whole,
            activations=saved + again + shared,
            working=layer.working,
            gathered=root + sharding.unit_share * neighbours if sharded else 0.0,
        )
        done += unit / sharding.gradient_size
        saved -= kept[index]
    if taps:
        yield Moment(name="kernels", gradients=held or done, activations=shared, working=model.kernel_block)
