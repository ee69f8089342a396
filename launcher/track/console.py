"""The progress lines on the screen: steps, validations, checkpoints. Pure formatting."""

import math
from typing import final

from launcher.track.records import StepRecord, ValidationRecord

_DIM, _BOLD, _RED, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"


@final
class ProgressLines:
    """Formats the lines of one attempt, aligned with each other; in color if `colour`."""

    def __init__(self, *, total_steps: int, colour: bool) -> None:
        self._total_steps = total_steps
        self._digits = len(str(total_steps))
        self._colour = colour

    def step_line(self, record: StepRecord, *, eta_s: float) -> str:
        """A training step in at most 80 columns (for up to 99 999 steps)."""
        parts = [
            self._step(record.step),
            self._number("loss", record.loss, format_fixed(record.loss, 4), width=7),
            self._number("lr", record.lr, format_scientific(record.lr, 2), width=7),
            self._number("grad", record.grad_norm, format_fixed(record.grad_norm, 3), width=6),
            f"{format_count(record.tokens_per_s):>5} {self._paint(_DIM, 'tok/s')}",
            f"{self._paint(_DIM, 'ETA')} {format_duration(eta_s)}",
        ]
        return "  ".join(parts)

    def validation_line(self, record: ValidationRecord) -> str:
        """An evaluation on validation data, with the best trivial baseline after the accuracy."""
        parts = [
            self._step(record.step),
            self._number("validation", record.loss, format_fixed(record.loss, 4), width=7, code=_BOLD),
            self._number("accuracy", record.accuracy, f"{record.accuracy:.3f}", width=5, code=_BOLD),
        ]
        # The best one only: accuracy 0.31 says little until it stands beside "majority 0.30".
        if record.baselines:
            best = max(record.baselines, key=lambda name: record.baselines[name])
            parts[-1] += f" ({best} {record.baselines[best]:.3f})"
        if record.bits_per_byte is not None:
            parts.append(
                self._number("bits/byte", record.bits_per_byte, f"{record.bits_per_byte:.4f}", width=6)
            )
        of_parts = record.loss_by_part or {}
        parts += [self._number(name, loss, format_fixed(loss, 4), width=6) for name, loss in of_parts.items()]
        parts.append(self._paint(_DIM, f"{record.sequences} sequences, {record.seconds:.1f} s"))
        return "  ".join(parts)

    def checkpoint_line(self, step: int, seconds: float, url: str) -> str:
        """A checkpoint that can be resumed from."""
        saved, took = self._paint(_DIM, "saved"), self._paint(_DIM, f"{seconds:.1f} s")
        return f"{self._step(step)}  {saved} {_short(url)}  {took}"

    def _step(self, step: int) -> str:
        return f"{self._paint(_DIM, 'step')} {step:>{self._digits}}/{self._total_steps}"

    def _number(self, label: str, value: float, text: str, *, width: int, code: str = "") -> str:
        # Padded before it is painted: escape codes have length but no width.
        padded = f"{text:>{width}}"
        colour = code if math.isfinite(value) else _RED
        return f"{self._paint(_DIM, label)} {self._paint(colour, padded) if colour else padded}"

    def _paint(self, code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if self._colour else text


def format_fixed(number: float, decimals: int) -> str:
    """`decimals` decimals, two fewer from 100, scientific from 1000: at most decimals + 3 characters wide."""
    if abs(number) >= 1000 and math.isfinite(number):
        return format_scientific(number, 1)
    # 99.995, not 100: from there on rounding would add a digit and push the columns apart.
    return f"{number:.{decimals if abs(number) < 99.995 else decimals - 2}f}"


def format_scientific(number: float, decimals: int) -> str:
    """1.00e-3: the exponent in as few digits as it needs."""
    mantissa, _, exponent = f"{number:.{decimals}e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is too large for a float."""
    return math.exp(loss) if loss < 709 else math.inf


def format_count(number: float) -> str:
    """Three digits and a suffix: 950, 48.2k, 1.31M."""
    if not math.isfinite(number):
        return str(number)
    magnitude = 0
    # 999.5 and so on are the values that would round up to one digit more: 999.7 is shown as 1.00k, not 1000.
    while abs(number) >= 999.5 and magnitude < 4:
        number /= 1000
        magnitude += 1
    digits = 0 if magnitude == 0 or abs(number) >= 99.95 else (1 if abs(number) >= 9.995 else 2)
    return f"{number:.{digits}f}{['', 'k', 'M', 'G', 'T'][magnitude]}"


def format_duration(seconds: float) -> str:
    """0:07, 12:34, 1h02m, 3d04h; a dash if it is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"


def _short(url: str) -> str:
    """A checkpoint's path within its run."""
    return "/".join(url.rsplit("/", 2)[-2:])
