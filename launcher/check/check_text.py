"""The result of a check as text."""

import math
from collections.abc import Sequence

from launcher.check.coordinates import BOUND, NUM_STEPS, Measure, Slope, fails
from launcher.check.run_check import CheckResult, sharding_name
from launcher.check.shrink import describe_shrinking
from launcher.table import table_lines

_COLUMNS: tuple[tuple[Measure, int, str], ...] = (
    ("init", 0, "initial"),
    ("total", NUM_STEPS, "change"),
    ("own", NUM_STEPS, "own change"),
    ("state", NUM_STEPS, "state"),
)


def check_text(result: CheckResult) -> str:
    """The table of slopes, then one line per finding."""
    setting = result.setting
    lines = [
        "",
        f"exponents of width, |slope| <= {BOUND:g}; peak rates x {setting.lr_amplification:g}, "
        f"{NUM_STEPS} steps on one batch, mean of {len(setting.seeds)} seeds",
        f"shrunk: {describe_shrinking(setting.recipe, setting.widths)}",
        "",
        *_slope_table(result),
        "",
    ]
    for finding in result.findings:
        mark = "pass" if finding.passed else "FAIL"
        lines.append(f"{mark}  {finding.name}: {finding.value} ({finding.bound})")
        if finding.detail:
            lines.append(f"      {finding.detail}")
    return "\n".join([*lines, "", "PASSED" if result.passed else "FAILED"])


def _slope_table(result: CheckResult) -> list[str]:
    """Slopes at the last step, with ! if any judged step is out of bounds."""
    modules = dict.fromkeys(slope.module for slope in result.slopes)
    heads = [head for _, _, head in _COLUMNS]
    sharded_head = f"change, {sharding_name(result.setting.recipe)}"
    rows = [("module", *heads, *([sharded_head] if result.sharded else []))]
    for module in modules:
        cells = [_cell(result.slopes, measure, step, module) for measure, step, _ in _COLUMNS]
        if result.sharded:
            cells.append(_cell(result.sharded, "total", NUM_STEPS, module))
        rows.append((module, *cells))
    return table_lines(rows, right_align=True)


def _cell(slopes: Sequence[Slope], measure: Measure, step: int, module: str) -> str:
    of_module = [slope for slope in slopes if slope.measure == measure and slope.module == module]
    shown = [slope.slope for slope in of_module if slope.step == step]
    if not shown or math.isnan(shown[0]):
        return "-"
    return f"{shown[0]:+.3f}" + ("!" if any(fails(slope) for slope in of_module) else " ")
