"""`launch plan RECIPE --compare nodes=1,2,8 parallel.strategy=fsdp2,hsdp`: variants side by side."""

import itertools
from collections.abc import Sequence

from launcher.errors import Problem, UserError
from launcher.plan.forecast import DEVICES, find_traffic, make_forecast, needs_gib
from launcher.plan.plan import Plan, make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import load_recipe
from launcher.recipe.overrides import Nodes
from launcher.recipe.schema import Recipe
from launcher.sweep.axes import split_values
from launcher.table import table_lines

MOST = 64
"""Variants."""


def compare_plans(
    path: str, overrides: Sequence[str], axes: Sequence[str], nodes: Nodes | None, per_node: int | None
) -> list[str]:
    """A row for each combination of the axes' values; what cannot be planned says why, in its row."""
    names, values = zip(*(_axis(axis) for axis in axes), strict=True)
    combinations = list(itertools.product(*values))
    if len(combinations) > MOST:
        raise UserError(Problem("--compare", f"{len(combinations)} variants; {MOST} are the most"))
    rows = [(*names, "ranks", "micro", "GiB", "fits on", "sent GB", "tokens/s", "hours", "cost")]
    refused: dict[str, list[str]] = {}
    for combination in combinations:
        pairs = dict(zip(names, combination, strict=True))
        asked = int(pairs["nodes"]) if "nodes" in pairs else nodes
        changes = [f"{name}={value}" for name, value in pairs.items() if name != "nodes"]
        try:
            recipe = load_recipe(path, [*overrides, *changes], nodes=asked, nproc_per_node=per_node).recipe
            numbers = _numbers(recipe, make_plan(recipe, planned_ranks(recipe)))
        except UserError as error:
            variant = " ".join(f"{name}={value}" for name, value in pairs.items())
            refused.setdefault(str(error.problems[0]), []).append(variant)
            numbers = ("-",) * 8
        rows.append((*combination, *numbers))
    return [*table_lines(rows), *(f"{'; '.join(variants)}: {why}" for why, variants in refused.items())]


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        message = f"got {text!r}; write key=value,value"
        raise UserError(Problem("--compare", message, "such as nodes=1,2,8 or parallel.strategy=fsdp2,hsdp"))
    if name == "nodes" and not all(value.isdigit() and int(value) > 0 for value in values.split(",")):
        raise UserError(Problem("--compare", f"got {text!r}; nodes are whole numbers from 1"))
    return name, list(split_values(values))


def _numbers(recipe: Recipe, plan: Plan) -> tuple[str, ...]:
    needs = needs_gib(plan.peak)
    device = next((f"{name} GB" for name, gib in DEVICES.items() if needs <= gib), "none")
    traffic, found = find_traffic(recipe, plan), make_forecast(recipe, plan)
    batch = plan.batch
    sent = f"{traffic.within / 1e9:.3g} + {traffic.across / 1e9:.3g}"
    shape = f"{batch.micro_batch_size} x {batch.num_micro}"
    head = (str(batch.world_size), shape, f"{needs:.1f}", device, sent)
    if found is None:
        return (*head, "", "", "")
    price = "" if found.price is None else f"{found.price[1]:.3g} to {found.price[0]:.3g}"
    speed = f"{found.tokens_per_s[0]:.3g} to {found.tokens_per_s[1]:.3g}"
    return (*head, speed, f"{found.hours[1]:.3g} to {found.hours[0]:.3g}", price)
