"""`launch watch`: once on a pipe, live on a terminal, and never longer than the run."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.launch import LAUNCH, launch
from tests.small_run import train_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("watch")
    train_run(found / "runs/one")
    return found


def test_a_pipe_gets_plain_text_once(folder: Path) -> None:
    done = launch("watch", "one", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "20 of 20" in done.stdout
    assert done.stdout.splitlines()[0].split() == ["run", "one"]


def test_a_terminal_gets_a_panel_until_nobody_trains_the_run(folder: Path) -> None:
    terminal, other_side = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    command = [*LAUNCH, "watch", "latest"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=other_side, stderr=other_side)
    os.close(other_side)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not data:
            break
        shown += data
    os.close(terminal)
    assert process.wait(30) == 0, shown
    assert b"20 of 20" in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1, "the cursor is shown again"


def test_a_run_that_is_none_is_refused(folder: Path) -> None:
    done = launch("watch", "two", folder=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
