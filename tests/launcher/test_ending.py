"""One table of endings: documented, codes distinct, and every exception in one class."""

import re
from pathlib import Path

import pytest
import torch

from launcher.ending import ENDINGS, REACTIONS, Ending, HangError, NonFiniteError, StopRequested, classify
from launcher.errors import Problem, UserError

GLOO = "[.../gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:10663: Connection reset by peer."
LATE = (
    "[.../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation to complete"
)
DOCUMENT = Path(__file__).parents[2] / "docs/endings.md"


def test_the_document_shows_the_table() -> None:
    rows = re.findall(
        r"^\| ([a-z -]+) \| (\d+) \| (\w+) \| (yes|no) \| (yes|no) \|", DOCUMENT.read_text(), re.M
    )
    assert rows == [
        (ending, str(r.code), r.status, "yes" if r.retry else "no", "yes" if r.requeue else "no")
        for ending, r in REACTIONS.items()
    ]


def test_every_ending_has_a_code_of_its_own() -> None:
    assert tuple(REACTIONS) == ENDINGS
    codes = [reaction.code for ending, reaction in REACTIONS.items() if ending != "config"]
    assert len(set(codes)) == len(codes)
    assert all(0 <= code < 128 or code == 130 for code in codes), "128 and more are the shell's, for signals"


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, "done"),
        (ValueError("x"), "bug"),
        (RuntimeError("shape mismatch"), "bug"),
        (UserError(Problem("a", "b")), "user error"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (KeyboardInterrupt(), "stopped by user"),
        (NonFiniteError("x"), "non-finite"),
        (HangError("x"), "hang"),
        (StopRequested("x"), "stopped by signal"),
        (StopRequested("x", "time limit"), "time limit"),
        (RuntimeError(GLOO), "node lost"),
        (RuntimeError(LATE), "hang"),
        (RuntimeError("Connection closed by peer"), "bug"),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1"), "node lost"),
    ],
)
def test_an_exception_has_a_class(error: BaseException | None, ending: Ending) -> None:
    assert classify(error) == ending
