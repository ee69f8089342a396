"""What a run fits on, sends, takes and costs, as lines of the plan."""

from launcher.plan.forecast import (
    CONTEXT_GIB,
    DEVICES,
    SLACK,
    find_traffic,
    largest_micro_batch,
    make_forecast,
    needs_gib,
    smallest_change,
)
from launcher.plan.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.table import size_text


def memory_lines(recipe: Recipe, plan: Plan) -> list[str]:
    """By what takes it, at the worst moment; and on which devices it fits."""
    peak, moment = plan.peak, plan.peak.moment
    causes = {
        "parameters": peak.parameters,
        "moments": peak.optimizer,
        "carried states": peak.carried,
        "gradients": moment.gradients,
        "activations": moment.activations,
        "at work": moment.working,
        "gathered": moment.gathered,
        "communication": peak.buffers,
    }
    parts = ", ".join(f"{cause} {size_text(size)}" for cause, size in causes.items() if size)
    return [
        f"memory       {size_text(peak.total)} a rank at its most, {_when(moment.name)}:",
        *wrap(" " * 13, parts),
        *_fits(recipe, plan),
    ]


def _when(moment: str) -> str:
    _, measured, inside = moment.rpartition("sharpness, ")
    where = {"loss": "in the loss", "update": "in the optimizer's step"}.get(inside, f"in the {inside}")
    return where + " while sharpness is measured" * bool(measured)


def _fits(recipe: Recipe, plan: Plan) -> list[str]:
    hardware = recipe.cluster.hardware
    needs = needs_gib(plan.peak)
    largest = {name: largest_micro_batch(recipe, plan, gib) for name, gib in DEVICES.items()}
    on = [str(name) for name, gib in DEVICES.items() if needs <= gib]
    fits = (
        f"on {', '.join(on)} GB" if on else f"on no device of up to {max(DEVICES)} GB{_remedy(recipe, plan)}"
    )
    grows = {size: name for name, size in reversed(largest.items()) if size}  # the smallest device of each
    most = ", ".join(f"{size} on {name}" for size, name in sorted(grows.items()))
    lines = [
        f"fits         {fits}, with {SLACK - 1:.0%} and {CONTEXT_GIB} GiB for allocator and libraries",
        *([f"             micro batch at most {most} GB"] if most else []),
    ]
    if hardware is not None and needs > hardware.memory_gib:
        change = smallest_change(recipe, plan, hardware.memory_gib)
        remedy = f"it would with {change}" if change else "shard over more ranks"
        lines.append(f"             {needs:.1f} GiB do not fit on {hardware.memory_gib:g} GiB: {remedy}")
    return lines


def _remedy(recipe: Recipe, plan: Plan) -> str:
    change = smallest_change(recipe, plan, max(DEVICES.values()))
    return f", but with {change}" if change else ", however it is recomputed: shard over more ranks"


def forecast_lines(recipe: Recipe, plan: Plan) -> list[str]:
    """Traffic; with figures of the hardware also speed, time, and what it costs."""
    traffic = find_traffic(recipe, plan)
    sent = {"within the node": traffic.within, "to other nodes": traffic.across}
    parts = ", ".join(f"{size / 1e9:.3g} GB {where}" for where, size in sent.items() if size)
    lines = [f"sent         a step and rank: {parts}"] if parts else []
    if (found := make_forecast(recipe, plan)) is None:
        return lines
    slow, fast = found.tokens_per_s
    speed = f"{slow:.3g} to {fast:.3g} tokens/s, bound by {found.bound}"
    lines.append(f"speed        {speed}; {_hours(found.hours)}")
    if found.save_s is not None:
        interval = _interval(plan, found.best_interval_s, fast)
        lines.append(f"saving       {found.save_s:.3g} s a checkpoint{interval}")
    if found.goodput is not None:
        lines[-1] += f"; {found.goodput:.1%} of the time is then training"
    costs = {"": found.price, "kWh": found.energy_kwh, "kg CO2": found.co2_kg}
    shown = [f"{pair[1]:.3g} to {pair[0]:.3g} {unit}".strip() for unit, pair in costs.items() if pair]
    return [*lines, *([f"cost         {', '.join(shown)}"] if shown else [])]


def _interval(plan: Plan, seconds: float | None, tokens_per_s: float) -> str:
    if seconds is None:
        return ""
    steps = max(1, round(seconds * tokens_per_s / plan.batch.tokens_per_step))
    return f"; least is lost with one every {seconds / 60:.3g} min, checkpoint.every={steps}"


def _hours(pair: tuple[float, float]) -> str:
    unit, factor = ("days", 24.0) if pair[1] >= 72 else ("h", 1.0) if pair[1] >= 1 else ("min", 1 / 60)
    return f"{pair[1] / factor:.3g} to {pair[0] / factor:.3g} {unit}"


def wrap(head: str, text: str, width: int = 110) -> list[str]:
    """Words between commas over lines that begin alike."""
    lines, line = [], head
    for word in text.split(", "):
        if len(line) + len(word) > width:
            lines.append(line.rstrip())
            line = " " * len(head)
        line += word + ", "
    return [*lines, line.rstrip(", ")]
