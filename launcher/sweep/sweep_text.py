"""The table of a sweep as text."""

import math
from collections.abc import Sequence

from launcher.sweep.results import PointResult
from launcher.sweep.transfer import Mean, Transfer, transfer_lines
from launcher.table import table_lines


def sweep_text(results: Sequence[PointResult], transfers: Sequence[Transfer]) -> str:
    """Losses (a row per rate, a column per width, means over seeds), verdicts, and failures."""
    lines: list[str] = []
    covered = {transfer.series for transfer in transfers}
    for transfer in transfers:
        lines += ["", f"loss, mean over seeds; * the best of its width{_titled(transfer.series)}"]
        lines += _transfer_table(transfer)
        lines += ["", *transfer_lines(transfer)]
    rest = [result for result in results if result.series not in covered]
    if rest:
        rows = [("point", "loss", "seconds")]
        rows += [(result.name, _loss(result), f"{result.seconds:.0f}") for result in rest]
        lines += ["", *table_lines(rows)]
    failed = [result for result in results if result.status in ("failed", "missing")]
    if failed:
        lines += ["", f"{len(failed)} of {len(results)} points have no result:"]
        lines += [f"  {result.name}: {result.error or result.status}" for result in failed]
    return "\n".join(lines)


def _titled(series: str) -> str:
    return f" ({series})" if series else ""


def _loss(result: PointResult) -> str:
    return f"{result.loss:.4f}" if result.status == "finished" else result.status


def _transfer_table(transfer: Transfer) -> list[str]:
    widths = list(transfer.losses)
    rates = sorted({rate for curve in transfer.losses.values() for rate in curve})
    best = {optimum.d_model: optimum.grid_lr for optimum in transfer.optima}
    rows = [("log2 lr", "lr", *(f"width {width}" for width in widths))]
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
            error = optimum.lr_log2.error
            spread = f" +-{error:.2f}" if math.isfinite(error) else ""
            return f"{optimum.lr_log2.value:.2f}{spread}" + (" (edge)" if optimum.num_at_edge else "")
    return ""
