"""What a run fits on, sends, takes and costs: arithmetic on the plan and on figures of the hardware."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from launcher.plan.memory import Peak, unit_share
from launcher.plan.plan import Plan, estimate_peak
from launcher.recipe.schema import Recipe

GIB = 1024.0**3
DEVICES = {24: 23.5, 40: 39.4, 80: 79.1, 141: 139.8, 192: 191.5}
"""Memory of devices by the name they are sold under, and GiB that a program finds."""
CONTEXT_GIB = 1.5
"""Of CUDA's context, libraries' workspaces and NCCL's channels."""
SLACK = 1.05
"""Of the caching allocator: what it has reserved over what is allocated."""


def needs_gib(peak: Peak) -> float:
    """GiB of a device that a peak takes, with context and slack."""
    return peak.total / GIB * SLACK + CONTEXT_GIB


def with_micro_batch(recipe: Recipe, plan: Plan, size: int) -> Peak:
    """The peak with another number of samples in each forward pass, which divides those of a rank."""
    per_rank = plan.batch.micro_batch_size * plan.batch.num_micro
    batch = replace(plan.batch, micro_batch_size=size, num_micro=per_rank // size)
    return estimate_peak(recipe, batch, plan.parameters, plan.memory, plan.shard_size)


def largest_micro_batch(recipe: Recipe, plan: Plan, gib: float) -> int:
    """Samples of the largest forward pass that fits, among those that divide a step; 0 if none does."""
    per_rank = plan.batch.micro_batch_size * plan.batch.num_micro
    sizes = [size for size in range(per_rank, 0, -1) if per_rank % size == 0]
    return next((size for size in sizes if needs_gib(with_micro_batch(recipe, plan, size)) <= gib), 0)


def smallest_change(recipe: Recipe, plan: Plan, gib: float) -> str:
    """The override with which it would fit: fewer samples at once, or recomputation; or empty."""
    size = largest_micro_batch(recipe, plan, gib)
    if size:
        return f"train.micro_batch_size={size}"
    parallel = recipe.parallel.model_copy(update={"activation_checkpointing": "full"})
    size = largest_micro_batch(recipe.model_copy(update={"parallel": parallel}), plan, gib)
    change = "parallel.activation_checkpointing=full"
    return f"{change} train.micro_batch_size={size}" if size else ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that a rank sends in a step; as many are received."""

    within: float
    """To ranks of its own node."""
    across: float
    """To other nodes."""


def find_traffic(recipe: Recipe, plan: Plan) -> Traffic:
    """Ring collectives: an all-gather or reduce-scatter of V bytes over n ranks sends V (n - 1) / n each."""
    # 1e9 parameters, fsdp2 on 8 ranks: gathered in float32 forward and backward, and gradients reduced, which
    # is 3 x 4e9 x 7/8 = 10.5 GB. DDP: an all-reduce is two of them, 7 GB.
    ranks, shard, per_node = plan.batch.world_size, plan.shard_size, recipe.cluster.nproc_per_node
    whole, replicas = 4.0 * plan.parameters.num_parameters, ranks // shard
    gathered = unit_share(recipe.parallel) * whole * 2 * plan.batch.num_micro
    inner = (gathered + whole) * (shard - 1) / shard
    outer = 2 * whole / shard * (replicas - 1) / replicas
    # A ring over several nodes is as fast as its slowest link.
    spans = shard > per_node
    within = (0.0 if spans else inner) + (outer if ranks <= per_node else 0.0)
    return Traffic(within=within, across=(inner if spans else 0.0) + (0.0 if ranks <= per_node else outer))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A range of speeds, and what follows from it. Pairs are (slowest, fastest)."""

    tokens_per_s: tuple[float, float]
    bound: str
    """What takes longest in a step at full speed."""
    hours: tuple[float, float]
    save_s: float | None
    """A checkpoint's time; None where storage is not known."""
    best_interval_s: float | None
    """Between checkpoints, by Young and Daly (J. W. Young 1974, CACM 17:530): sqrt(2 x save x MTBF)."""
    goodput: float | None
    """Fraction of the time that is not lost to saving and to failures, at that interval."""
    energy_kwh: tuple[float, float] | None
    co2_kg: tuple[float, float] | None
    price: tuple[float, float] | None


def make_forecast(recipe: Recipe, plan: Plan) -> Forecast | None:
    """From the figures of one device and its links; None without cluster.hardware."""
    if (hardware := recipe.cluster.hardware) is None:
        return None
    batch, traffic = plan.batch, find_traffic(recipe, plan)
    flops = plan.flops_per_token * batch.tokens_per_step / batch.world_size
    flops += plan.kernel_flops
    computing = [flops / (hardware.tflops * 1e12 * share) for share in hardware.mfu]
    sending = {
        "links within a node": traffic.within / (hardware.node_gb_per_s * 1e9),
        "the network": traffic.across / (hardware.network_gb_per_s * 1e9),
    }
    total = sum(sending.values())
    # At best what is sent hides in what is computed; at worst one waits for the other.
    seconds = computing[0] + total, max(computing[1], *sending.values())
    bounds: Mapping[str, float] = {"computation": computing[1], **sending}
    hours = tuple(plan.steps * s / 3600 for s in seconds)
    save = None
    if hardware.storage_gb_per_s is not None:
        save = plan.checkpoint_bytes / (hardware.storage_gb_per_s * 1e9)
    interval = goodput = None
    if save and hardware.node_mtbf_hours is not None:
        mtbf = hardware.node_mtbf_hours * 3600 / recipe.cluster.nodes
        interval = math.sqrt(2 * save * mtbf)
        blocked = 0.0 if recipe.checkpoint.asynchronous else save / interval
        goodput = max(0.0, 1 - blocked - interval / (2 * mtbf))
    devices = batch.world_size
    energy = _times(hours, devices * hardware.watts / 1000 * hardware.pue) if hardware.watts else None
    return Forecast(
        tokens_per_s=(batch.tokens_per_step / seconds[0], batch.tokens_per_step / seconds[1]),
        bound=max(bounds, key=lambda name: bounds[name]),
        hours=_times(hours, 1.0),
        save_s=save,
        best_interval_s=interval,
        goodput=goodput,
        energy_kwh=energy,
        co2_kg=_times(energy, hardware.co2_g_per_kwh / 1000) if energy and hardware.co2_g_per_kwh else None,
        price=_times(hours, devices * hardware.price_per_hour) if hardware.price_per_hour else None,
    )


def _times(pair: tuple[float, ...], factor: float) -> tuple[float, float]:
    return pair[0] * factor, pair[1] * factor
