"""The plan as text."""

import math
from collections.abc import Mapping, Sequence

from launcher.plan.forecast_text import forecast_lines, memory_lines, wrap
from launcher.plan.plan import Plan
from launcher.plan.worlds import node_counts
from launcher.recipe.schema import Recipe
from launcher.table import size_text, table_lines


def plan_text(recipe: Recipe, plan: Plan, *, full: bool = True) -> str:
    """Resolved values, counts, batch arithmetic, memory and parameter groups, in that order.

    Without `full`, only the values that differ from the defaults, and no table of rules.
    """
    lines = [*_heading(recipe, full=full), *_numbers(recipe, plan), "", *_groups(plan), ""]
    return "\n".join([*lines, *([*_widths(plan, recipe), ""] if full else [])])


def _heading(recipe: Recipe, *, full: bool) -> list[str]:
    data = recipe.model_dump(mode="json", exclude_defaults=not full)
    lines = [f"recipe {recipe.name}, seed {recipe.seed}"]
    for section in (
        "model",
        "data",
        "optim",
        "schedule",
        "mup",
        "parallel",
        "train",
        "checkpoint",
        "track",
        "cluster",
    ):
        values = ", ".join(
            f"{key}={_short(value)}" for key, value in data.get(section, {}).items() if value is not None
        )
        lines += wrap(f"{section:<10} ", values) if values else []
    return [*lines, ""]


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}={_short(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_short(v) for v in value) + "]"
    return str(value)


_SAMPLES = {1: "sequences", 2: "pairs of sequences"}


def _numbers(recipe: Recipe, plan: Plan) -> list[str]:
    batch = plan.batch
    cluster, counts = recipe.cluster, node_counts(recipe)
    return [
        f"parameters   {plan.parameters.num_parameters:,}: {_parts(_parameters_by_part(plan))}",
        f"ranks        {batch.world_size} = {counts[-1]} node(s) x {cluster.nproc_per_node}; "
        f"each copy of the parameters on {plan.shard_size}",
        *_elastic(recipe, counts),
        f"batch        {batch.global_batch_size} {_SAMPLES[batch.num_sequences]} x {batch.seq_len} = "
        f"{batch.tokens_per_step:,} "
        f"tokens a step, as {batch.micro_batch_size} x {batch.num_micro} forward(s) x "
        f"{batch.world_size} rank(s)",
        f"run          {plan.steps:,} steps, {plan.total_tokens:,} tokens, {plan.total_flops:.3g} FLOPs",
        f"flops        {plan.flops_per_token:.3g} a token: {_parts(plan.flops_by_part)}"
        + (f"; kernels {plan.kernel_flops:.3g} a step, whatever the batch" if plan.kernel_flops else ""),
        *memory_lines(recipe, plan),
        f"checkpoint   {size_text(plan.checkpoint_bytes)} every {recipe.checkpoint.every} steps, "
        f"the newest {recipe.checkpoint.keep} kept",
        f"host memory  {_host(recipe, plan)}",
        *forecast_lines(recipe, plan),
        *_warning(recipe),
        f"base shapes  {plan.parameters.base_shapes_hash}",
        *(
            f"extension    {name} {facts.version}, sha256 {facts.digest[:16]}"
            for name, facts in plan.extensions.items()
        ),
        *_provenance(recipe),
    ]


def _provenance(recipe: Recipe) -> list[str]:
    """Where values were tuned, and on what that rests."""
    found = recipe.provenance
    if found is None:
        return []
    values = ", ".join(f"{key}={value}" for key, value in found.values.items())
    half, centre = found.optimum_half_width, found.optimum_log2_lr
    near = "" if centre is None else f", rate between those tried 2^{centre:.2f}"
    near += "" if half is None else f" +- {half:.2f} octaves"
    check = f"check {found.check} passed" if found.check else "no passed check is recorded"
    line = (
        f"{values} at width {found.d_model}, best of {found.points} by loss {found.loss:.4f} over "
        f"{found.seeds} seed(s) of {found.steps:,} steps{near}; {check}; {found.sweep}"
    )
    return wrap("tuned        ", line)


def _parameters_by_part(plan: Plan) -> dict[str, float]:
    """Of each kind of layer, the layers' norms, and what is around the layers."""
    parts: dict[str, float] = {}
    for name, shape in plan.parameters.shapes.items():
        words = name.split(".")
        part = words[2] if words[0] == "layers" else words[0]
        parts[part] = parts.get(part, 0.0) + math.prod(shape)
    return parts


def _parts(parts: Mapping[str, float]) -> str:
    """Shares of a whole, the largest first; what is below half a per cent is left out."""
    total = sum(parts.values())
    largest = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{part} {value / total:.0%}" for part, value in largest if value >= 0.005 * total)


def _elastic(recipe: Recipe, counts: Sequence[int]) -> list[str]:
    """The worlds that the run may have, where nodes may come and go."""
    cluster = recipe.cluster
    if cluster.min_nodes is None:
        return []
    alike = ", ".join(f"{count} x {cluster.nproc_per_node}" for count in counts)
    return [f"elastic      {alike}: of {cluster.min_nodes} to {cluster.nodes} nodes, any others stand by"]


def _warning(recipe: Recipe) -> list[str]:
    """What must fit before a batch job's end."""
    shape = recipe.cluster
    if shape.type == "local" or shape.nodes == 1 or shape.rendezvous is not None:
        return []
    return [f"time limit   a step and a save must fit in the last {shape.warning_s} s: cluster.warning_s"]


def _host(recipe: Recipe, plan: Plan) -> str:
    """Of each rank, beside Python itself: batches read ahead, and what checkpoints are written from."""
    batch, memory = plan.batch, plan.memory
    # Inputs and targets of 8 bytes each.
    step = 16.0 * batch.micro_batch_size * batch.num_micro * batch.seq_len * batch.num_sequences
    text = f"{size_text(step * (1 + recipe.data.prefetch))} a rank of batches read ahead"
    if not recipe.checkpoint.asynchronous:
        return text
    copied = memory.parameters + memory.optimizer + memory.carried
    return f"{text}, copies of {size_text(copied)} for checkpoints"


def _groups(plan: Plan) -> list[str]:
    """One row per optimizer group: peak rate, weight decay, number of tensors and parameters."""
    shapes = plan.parameters.shapes
    rows = [("group", "peak lr", "decay", "tensors", "parameters", "such as")]
    for group in plan.parameters.groups:
        count = sum(math.prod(shapes[name]) for name in group.parameters)
        rows.append(
            (
                group.name,
                f"{group.lr:.4g}",
                f"{group.weight_decay:.4g}",
                str(len(group.parameters)),
                f"{count:,}",
                group.parameters[0],
            )
        )
    return table_lines(rows)


def _widths(plan: Plan, recipe: Recipe) -> list[str]:
    """One row per distinct (role, width multiplier, multipliers), with its rule."""
    # What matters is which rules apply: 400 tensors usually have about five of them. `launch explain` lists
    # all.
    parameters = plan.parameters
    rows: list[tuple[str, ...]] = [
        ("role", "width x", "init x", "forward x", "lr x", "decay x", f"rule ({recipe.mup.type})")
    ]
    for name in parameters.shapes:
        scaling = parameters.scalings[name]
        multipliers = (scaling.init, scaling.forward, scaling.lr, scaling.weight_decay)
        row = (
            str(parameters.facts[name].role),
            f"{parameters.width_multipliers[name].fan_in:g}",
            *(f"{multiplier:g}" for multiplier in multipliers),
            scaling.source,
        )
        if row not in rows:
            rows.append(row)
    return table_lines(rows)
