"""A run at a glance: once on a pipe, live on a terminal, and below the lines of a run."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.launch import ENVIRONMENT, LAUNCH, launch
from tests.small_run import RECIPE, train_run


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


def on_terminal(
    *words: str, folder: Path, until: bytes = b"\0", env: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, bytes]:
    """Exit code and all that a terminal gets; ctrl-C is pressed when it shows a text."""
    terminal, other_side = pty.openpty()
    environment = os.environ | ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"} | env
    process = subprocess.Popen(
        [*LAUNCH, *words],
        cwd=folder,
        env=environment,
        stdin=other_side,
        stdout=other_side,
        stderr=other_side,
        start_new_session=True,
    )
    os.close(other_side)
    shown, pressed, deadline = b"", False, time.monotonic() + 200
    while time.monotonic() < deadline:
        if until in shown and not pressed:
            pressed = True
            os.killpg(process.pid, signal.SIGINT)
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
    return process.wait(30), shown


def has_cursor(shown: bytes) -> bool:
    return shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") >= 0


def test_a_terminal_gets_a_panel_until_nobody_trains_the_run(folder: Path) -> None:
    code, shown = on_terminal("watch", "latest", folder=folder)
    assert code == 0, shown
    assert b"20 of 20" in shown
    assert has_cursor(shown)


def test_a_run_on_a_terminal_has_a_panel_below_its_lines_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = ("small.yaml", "train.steps=100000", "track.log_every=1", "track.mlflow.enabled=false")
    code, shown = on_terminal(*words, "--run-dir", "run", folder=tmp_path, until=b"goodput")
    assert code == 130, shown
    assert has_cursor(shown)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")
    printed = (tmp_path / "run/logs/console.log").read_text()
    assert "launch: stopped by user: SIGINT" in printed
    missing = [line for line in printed.splitlines() if line not in text]  # long ones whole, without breaks
    assert not missing, "the terminal gets every line of the console's log"


@pytest.mark.parametrize(
    ("env", "colours"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb", "LAUNCH_PLAIN": ""}, False)],
    ids=["plain", "without colors", "a dumb terminal"],
)
def test_who_wants_lines_gets_lines(env: dict[str, str], colours: bool, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = ("small.yaml", "train.steps=6", "track.mlflow.enabled=false", "--run-dir", "run")
    code, shown = on_terminal(*words, folder=tmp_path, env={"LAUNCH_PLAIN": "1"} | env)
    assert code == 0, shown
    assert b"next:" in shown
    assert b"goodput" not in shown
    assert b"\x1b[?25l" not in shown
    assert (b"\x1b[2m" in shown) == colours


def test_a_run_that_is_none_is_refused(folder: Path) -> None:
    done = launch("watch", "two", folder=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
