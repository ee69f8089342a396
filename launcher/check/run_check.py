"""All checks of a recipe, one after another."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from launcher.check.coordinates import (
    BOUND,
    FIRST_STEP,
    NUM_STEPS,
    OF_PARAMETERS,
    PARAMETER_BOUND,
    Setting,
    Slope,
    Value,
    distance,
    fails,
    fit_slopes,
    is_judged,
    largest_difference,
    measure_coordinates,
    measure_sharded,
)
from launcher.check.factors import check_factors, expected_exponents, falling_names
from launcher.check.health import (
    Finding,
    check_gradient_flow,
    check_initial_loss,
    check_overfit,
    check_states,
    check_unit_variance,
)
from launcher.check.proxy import one_thread
from launcher.check.shrink import choose_lr_amplification, sharded_ranks
from launcher.processes import GroupError
from launcher.recipe.schema import Recipe
from launcher.world import World, world_on

NUM_SEEDS = 3
SHARDED_TOLERANCE = 0.02
"""Sharded models sum gradients in another order; Adam's division amplifies this where they are tiny."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Everything that a check measured and found."""

    setting: Setting
    slopes: tuple[Slope, ...]
    sharded: tuple[Slope, ...]
    parameters: tuple[Slope, ...]
    """Of what each parameter does by itself."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check has passed."""
        return all(finding.passed for finding in self.findings)


def run_check(
    recipe: Recipe, widths: tuple[int, ...], say: Callable[[str], None], device: str = "cpu"
) -> CheckResult:
    """Check a recipe's parametrization at every width, whole and sharded, and the health of a small model.

    Sharded models are always on the CPU.
    """
    world = world_on(device)
    setting = Setting(
        recipe=recipe,
        widths=widths,
        seeds=tuple(recipe.seed + k for k in range(NUM_SEEDS)),
        lr_amplification=choose_lr_amplification(recipe),
    )
    with one_thread():
        say("coordinate check on one process" + ("" if device == "cpu" else f", on {device}"))
        values = measure_coordinates(setting, world)
        falling = falling_names(recipe)
        every = fit_slopes(values, recipe.mup.type, expected_exponents(recipe, widths), falling)
        slopes = [slope for slope in every if slope.measure not in OF_PARAMETERS]
        parameters = [slope for slope in every if slope.measure in OF_PARAMETERS]
        findings = [judge_slopes("coordinate check", slopes), judge_parameters(parameters)]
        if recipe.mup.type != "umup":
            findings.append(check_factors(recipe, widths))
        sharded: list[Slope] = []
        if (ranks := sharded_ranks(recipe)) > 1:
            say(f"coordinate check under {sharding_name(recipe)} on {ranks} processes")
            sharded, found = _check_sharded(setting, ranks, values)
            findings += found
        say("initial loss, overfitting, gradients, states")
        findings += _check_health(recipe, widths, world)
    return CheckResult(
        setting=setting,
        slopes=tuple(slopes),
        sharded=tuple(sharded),
        parameters=tuple(parameters),
        findings=tuple(findings),
    )


def _check_health(recipe: Recipe, widths: tuple[int, ...], world: World) -> list[Finding]:
    small, large = widths[0], widths[-1]
    findings = [
        check_initial_loss(recipe, large, world),
        check_overfit(recipe, small, world),
        check_gradient_flow(recipe, small, world),
        *check_states(recipe, small, world),
    ]
    if recipe.mup.type == "umup":
        findings.append(check_unit_variance(recipe, large, world))
    return findings


def sharding_name(recipe: Recipe) -> str:
    """How a recipe shards, in a few words."""
    parallel = recipe.parallel
    return (
        f"deepspeed zero {parallel.zero_stage or 0}" if parallel.engine == "deepspeed" else parallel.strategy
    )


def _check_sharded(setting: Setting, ranks: int, whole: Sequence[Value]) -> tuple[list[Slope], list[Finding]]:
    name = f"coordinate check, {sharding_name(setting.recipe)} x {ranks}"
    sharded = Setting(
        recipe=setting.recipe,
        widths=setting.widths,
        seeds=setting.seeds,
        lr_amplification=setting.lr_amplification,
        ranks=ranks,
    )
    try:
        values = measure_sharded(sharded)
    except GroupError as failure:
        return [], [Finding(name, False, "did not run", "runs", failure.first.strip().splitlines()[-1])]
    slopes = fit_slopes(values, setting.recipe.mup.type, {}, falling_names(setting.recipe))
    judged = judge_slopes(name, slopes)
    if setting.recipe.model.norm == "batch":
        detail = (
            f"{judged.detail}; not compared with the whole: batch norm uses only the sequences of its rank"
        )
        return slopes, [dataclasses.replace(judged, detail=detail)]
    # Slopes alone would miss an error that is the same at every width, such as gradients summed instead of
    # averaged.
    worst, place = largest_difference(whole, values)
    return slopes, [
        judged,
        Finding(
            "sharded = whole",
            worst <= SHARDED_TOLERANCE,
            f"changes differ by {worst:.2e}",
            f"at most {SHARDED_TOLERANCE:g}",
            place,
        ),
    ]


def judge_slopes(name: str, slopes: Sequence[Slope]) -> Finding:
    """One verdict over all measures, modules and steps."""
    judged = [slope for slope in slopes if is_judged(slope)]
    # Every failing module is named: one wrong rate often shows in all the layers above it.
    failing = [slope for slope in judged if fails(slope)]
    worst = max(judged, key=_distance)
    modules = dict.fromkeys(f"{slope.module} ({slope.measure} {slope.slope:+.2f})" for slope in failing)
    detail = "depends on width: " + ", ".join(list(modules)[:6]) if modules else f"largest: {worst.module}"
    detail += f" and {len(modules) - 6} more" if len(modules) > 6 else ""
    by_design = sorted({(slope.module, slope.expected) for slope in judged if slope.expected != 0.0})
    detail += "".join(f"; measured from {expected:+g} at {module}" for module, expected in by_design)
    return Finding(
        name,
        not failing,
        f"largest |slope| {_distance(worst):.3f} of {len(judged)}, steps {FIRST_STEP} to {NUM_STEPS}",
        f"at most {BOUND:g}",
        detail,
    )


def judge_parameters(slopes: Sequence[Slope]) -> Finding:
    """One verdict over what every parameter does by itself, with the power that explains what fails."""
    worst = max(slopes, key=_distance)
    by_name: dict[str, list[Slope]] = {}
    for slope in filter(fails, slopes):
        by_name.setdefault(slope.module, []).append(slope)
    followed = {slope.module for slope in slopes if slope.measure == "moved"}
    lines = [_explain_parameter(name, failing, name in followed) for name, failing in by_name.items()]
    more = f" and {len(lines) - 4} more" if len(lines) > 4 else ""
    return Finding(
        "every parameter alone",
        not lines,
        f"largest |slope| {_distance(worst):.3f} of {len(slopes)}, step {NUM_STEPS}",
        f"at most {PARAMETER_BOUND:g}",
        "; ".join(lines[:4]) + more if lines else f"largest: {worst.module}",
    )


def _explain_parameter(name: str, failing: Sequence[Slope], followed: bool) -> str:
    """`followed`: how far it moves is known, so that an effect alone is not that of its rate."""
    found = {slope.measure: slope for slope in failing}
    said = [
        f"{'moves' if measure == 'moved' else 'acts'} as width^{slope.slope:+.2f}, not {slope.expected:+.2g}"
        for measure, slope in found.items()
    ]
    if "moved" in found or not followed:
        slope = found["moved" if followed else "alone"]
        power = round(2 * (slope.slope - slope.expected)) / 2
        said.append(f"as if its rate had another width^{power:+g}")
    return f"{name} {', '.join(said)}"


def _distance(slope: Slope) -> float:
    """Distance from the expected slope; infinite if there is no slope."""
    return math.inf if math.isnan(slope.slope) else distance(slope)
