import math
from dataclasses import replace

import pytest

from launcher.track.console import ProgressLines, format_count, format_duration, format_fixed
from tests.launcher.track.records import step_record, validation_record


def test_step_lines_fit_in_80_columns_and_align() -> None:
    progress = ProgressLines(total_steps=99_999, colour=False)
    lines = [
        progress.step_line(step_record(1, loss=11.5), eta_s=99_000),
        progress.step_line(replace(step_record(20), tokens_per_s=1_234_567.0), eta_s=61),
        progress.step_line(replace(step_record(99_999), grad_norm=123.4, lr=0.0), eta_s=0),
        progress.step_line(replace(step_record(30), loss=math.nan, grad_norm=math.inf), eta_s=60),
        progress.step_line(replace(step_record(40), loss=4e7, grad_norm=6e9), eta_s=60),
    ]
    assert max(len(line) for line in lines) <= 80
    for label in ("loss", "lr", "grad", "tok/s", "ETA"):
        assert len({line.index(label) for line in lines}) == 1, label


def test_lines_say_what_happened() -> None:
    progress = ProgressLines(total_steps=300, colour=False)
    step = progress.step_line(step_record(120, loss=2.43), eta_s=92)
    assert step == "step 120/300  loss  2.4300  lr 1.00e-3  grad  1.700  48.2k tok/s  ETA 1:32"
    text = progress.validation_line(validation_record(100))
    assert text == "step 100/300  validation  2.3100  accuracy 0.412  128 sequences, 3.0 s"
    task = progress.validation_line(
        validation_record(100, {"most frequent": 0.17, "root operator alone": 0.371})
    )
    expected = "validation  2.3100  accuracy 0.412 (root operator alone 0.371)  128 sequences, 3.0 s"
    assert task == f"step 100/300  {expected}"
    saved = progress.checkpoint_line(100, 0.31, "/runs/a/checkpoints/step-0000000100")
    assert saved == "step 100/300  saved checkpoints/step-0000000100  0.3 s"


def test_colours_come_only_where_asked_for_and_move_nothing() -> None:
    plain, bright = (ProgressLines(total_steps=300, colour=colour) for colour in (False, True))
    record = step_record(5, loss=math.nan)
    assert "\x1b" not in plain.step_line(record, eta_s=1)
    painted = bright.step_line(record, eta_s=1)
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m"):
        painted = painted.replace(code, "")
    assert painted == plain.step_line(record, eta_s=1)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950.4, "950"), (999.6, "1.00k"), (48_211, "48.2k"), (999_600, "1.00M"), (1.31e6, "1.31M"),
     (2.5e9, "2.50G"), (7e15, "7000T"), (math.nan, "nan")],
)  # fmt: skip
def test_counts_have_three_digits(number: float, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (3723, "1h02m"), (273_900, "3d04h"),
     (math.nan, "-"), (math.inf, "-")],
)  # fmt: skip
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_large_numbers_do_not_widen_the_column() -> None:
    texts = [format_fixed(number, 4) for number in (1.5, -0.25, 99.999, 123.0, 12345.0, math.inf)]
    assert texts == ["1.5000", "-0.2500", "100.00", "123.00", "1.2e4", "inf"]
