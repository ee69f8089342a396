"""A run at a glance: what `launch watch` shows. Text only; torch-free."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from launcher.report.run_facts import RunFacts
from launcher.track.console import format_count, format_duration, format_fixed, format_scientific

_BARS: Final = "▁▂▃▄▅▆▇█"
_RECENT: Final = 20
"""Logged steps whose median pace and speed are shown."""


def panel_rows(facts: RunFacts, width: int) -> list[tuple[str, str]]:
    """(label, text) of every line, for a terminal of so many columns."""
    history = facts.history
    rows = [("run", facts.name), ("state", facts.state)]
    if not history.step:
        return rows
    lines = history.lines(np.arange(len(history.columns["step"]))[-_RECENT:])
    last, losses = lines[-1], history.columns["loss"]
    pace_s = float(np.median([line["step_time_s"] for line in lines]))
    left = facts.total - history.step
    ends = f", about {format_duration(left * pace_s)} to train" if left else ""
    done = _bar(history.step / facts.total, min(30, width // 3))
    rows.append(("step", f"{done} {history.step:,} of {facts.total:,}{ends}"))
    rows.append(("loss", f"{format_fixed(last['loss'], 4)}  {sparkline(losses, max(8, width - 30))}"))
    if history.validations:
        rows.append(("validation", _validation(history.validations[-1], history.best_validation)))
    rows.append(("rate", format_scientific(last["lr"], 2)))
    clipped = history.columns["clip_fraction"][-_RECENT:]
    norm = f"{format_fixed(last['grad_norm'], 3)}, {float(np.mean(clipped)):.0%} of steps clipped"
    rows.append(("gradient", norm))
    rows.append(("speed", _speed(facts, lines)))
    if last.get("memory_gb"):
        rows.append(("memory", f"{last['memory_gb']:.3g} GB of a device at most"))
    if gpu := last.get("gpu"):
        rows.append(("devices", _devices(gpu)))
    rows.append(("checkpoint", f"step {facts.saved[-1]:,}" if facts.saved else "none yet"))
    return rows + [("warning", text) for text in warnings(facts)]


def sparkline(values: NDArray[np.float64], width: int) -> str:
    """A curve in one line of text: means of neighbours, from the lowest to a little below the highest."""
    if not len(values):
        return ""
    parts = np.array_split(values, min(width, len(values)))
    means = np.array(
        [part[np.isfinite(part)].mean() if np.isfinite(part).any() else math.nan for part in parts]
    )
    known = means[np.isfinite(means)]
    if not known.size:
        return "×" * len(means)
    # The first steps of a run are far above all others, and would make those one flat line.
    low, high = float(known.min()), float(np.quantile(known, 0.9))
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _BARS[min(len(_BARS) - 1, round((value - low) * scale))] if math.isfinite(value) else "×"
        for value in means.tolist()
    )


def _bar(share: float, width: int) -> str:
    full = min(width, int(share * width))
    return "█" * full + "░" * (width - full)


def _validation(last: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
    text = f"{format_fixed(last['loss'], 4)} at step {last['step']:,}"
    if best is None or best["step"] == last["step"]:
        return text
    return f"{text}, best {format_fixed(best['loss'], 4)} at {best['step']:,}"


def _speed(facts: RunFacts, lines: Sequence[Mapping[str, Any]]) -> str:
    speed = float(np.median([line["tokens_per_s"] for line in lines]))
    waits = sum(line["data_wait_s"] for line in lines) / sum(line["step_time_s"] for line in lines)
    mfu = [line["mfu"] for line in lines if line.get("mfu")]
    share = f", MFU {float(np.median(mfu)):.1%}" if mfu else ""
    goodput = f", goodput {facts.history.ledger.goodput:.0%}"
    return f"{format_count(speed)} tokens/s{share}, data wait {waits:.1%}{goodput}"


def _devices(gpu: Mapping[str, float]) -> str:
    parts = []
    if "temperature_c" in gpu:
        parts.append(f"{gpu['temperature_c']:.0f} °C at most (rank {gpu['temperature_rank']:.0f})")
    if "clock_mhz" in gpu:
        parts.append(f"{gpu['clock_mhz']:.0f} MHz at least (rank {gpu['clock_rank']:.0f})")
    if "power_w" in gpu:
        parts.append(f"{gpu['power_w']:.0f} W in all")
    return ", ".join(parts)


def warnings(facts: RunFacts) -> list[str]:
    """What somebody should look into."""
    history = facts.history
    found = []
    if not math.isfinite(history.columns["loss"][-1]):
        found.append("the last loss is not finite")
    if skipped := history.of("skipped"):
        found.append(f"{len(skipped)} update(s) not applied, the last one at step {skipped[-1]['step']:,}")
    if rollbacks := history.of("rollback"):
        found.append(f"{len(rollbacks)} rollback(s), the last one to step {rollbacks[-1]['step']:,}")
    if errors := history.of("gpu_error"):
        last = errors[-1]
        found.append(f"XID {last['xid']} of the GPU of rank {last['rank']} at step {last['step']:,}")
    failed = history.of("save_failed", "checkpoint")
    if failed and failed[-1]["event"] == "save_failed":
        found.append(f"step {failed[-1]['step']:,} could not be saved: {failed[-1].get('reason')}")
    if history.damaged:
        found.append(f"{history.damaged} damaged line(s) in the journal")
    return found
