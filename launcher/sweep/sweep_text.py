"""The table of a sweep as text."""

import math
from collections.abc import Sequence

from launcher.sweep.results import PointResult
from launcher.sweep.transfer import Mean, Transfer, at_key, transfer_lines
from launcher.table import table_lines

_MOST_ROWS = 40


def sweep_text(results: Sequence[PointResult], transfers: Sequence[Transfer]) -> str:
    """Losses (a row per value, a column per width, means over seeds), verdicts, and failures."""
    lines: list[str] = []
    covered = {
        result.name
        for transfer in transfers
        for result in at_key(transfer.key, results)
        if result.series == transfer.series
    }
    for transfer in transfers:
        lines += ["", f"loss, mean over seeds; * the best of its width{_titled(transfer.series)}"]
        lines += _transfer_table(transfer)
        lines += ["", *transfer_lines(transfer)]
    rest = sorted((result for result in results if result.name not in covered), key=_order)
    if rest:
        rows = [("point", "loss", "seconds")]
        rows += [(result.name, _loss(result), f"{result.seconds:.0f}") for result in rest[:_MOST_ROWS]]
        more = f"and {len(rest) - _MOST_ROWS} more, in sweep.json" if len(rest) > _MOST_ROWS else ""
        lines += ["", *table_lines(rows), *filter(None, [more])]
    failed = [result for result in results if result.status in ("failed", "missing")]
    if failed:
        lines += ["", f"{len(failed)} of {len(results)} points have no result:"]
        lines += [f"  {result.name}: {result.error or result.status}" for result in failed]
    return "\n".join(lines)


def _order(result: PointResult) -> tuple[float, float]:
    """By width, then by loss, points without a result last."""
    return result.d_model, math.inf if math.isnan(result.loss) else result.loss


def _titled(series: str) -> str:
    return f" ({series})" if series else ""


def _loss(result: PointResult) -> str:
    return f"{result.loss:.4f}" if result.status == "finished" else result.status


def _transfer_table(transfer: Transfer) -> list[str]:
    widths = list(transfer.losses)
    rates = sorted({rate for curve in transfer.losses.values() for rate in curve})
    best = {optimum.d_model: optimum.grid_value for optimum in transfer.optima}
    short = transfer.key.rsplit(".", 1)[-1]
    rows = [(f"log2 {short}", short, *(f"width {width}" for width in widths))]
    for rate in rates:
        cells = [
            _cell(transfer.losses[width].get(rate)) + ("*" if best.get(width) == rate else "")
            for width in widths
        ]
        rows.append((f"{math.log2(rate):.2f}", f"{rate:.4g}", *cells))
    rows.append(("optimum", "", *(_optimum_cell(transfer, width) for width in widths)))
    return table_lines(rows)


def _cell(mean: Mean | None) -> str:
    if mean is None or math.isnan(mean.value):
        return ""
    if math.isinf(mean.value):
        return "diverged"
    return f"{mean.value:.4f}" + (f" +-{mean.error:.4f}" if math.isfinite(mean.error) else "")


def _optimum_cell(transfer: Transfer, width: int) -> str:
    for optimum in transfer.optima:
        if optimum.d_model == width:
            low, high = optimum.interval
            spread = f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else ""
            return f"{optimum.log2_value.value:.2f}{spread}" + (" (edge)" if optimum.num_at_edge else "")
    return ""
