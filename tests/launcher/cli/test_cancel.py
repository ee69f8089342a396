"""`launch status`, `ls`, `logs` and `cancel` on this machine."""

import os
import re
import time
from pathlib import Path

from launcher.run_folder import lock_holder
from tests.launch import ENVIRONMENT, launch, start_launch
from tests.small_run import RECIPE
from tests.wait import wait_for


def test_a_run_of_this_machine_is_listed_followed_and_cancelled(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    run = tmp_path / "runs" / "one"
    words = ("small.yaml", "train.steps=100000", "checkpoint.every=50000", "--run-dir", "runs/one")
    pid = start_launch(*words, folder=tmp_path, env=ENVIRONMENT)
    row = re.compile(r"^runs/one +training +\d+/100000 +\d\.\d{4} +none", re.MULTILINE)
    wait_for(lambda: bool(row.search(launch("ls", folder=tmp_path).stdout)))
    listed = launch("ls", folder=tmp_path).stdout.splitlines()
    assert re.match(r"run +state +step +loss +checkpoint +job", listed[0])
    assert launch("status", folder=tmp_path).stdout.splitlines()[0].split() == listed[0].split()
    shown = launch("status", "runs/one", folder=tmp_path).stdout
    assert re.search(r"^loss +\d\.\d{4}, \S+ tokens/s, \S+.* to train$", shown, re.MULTILINE)
    assert "attempt 1 starts" in launch("logs", "runs/one", "--attempt", "1", folder=tmp_path).stdout
    done = launch("cancel", "runs/one", folder=tmp_path)
    assert done.returncode == 0
    assert re.search(r"asked process \d+ on .* to save and stop\nstopped by user: ", done.stdout), done.stdout
    assert lock_holder(str(run)) is None
    assert list((run / "checkpoints").glob("step-*/manifest.json"))
    os.waitpid(pid, 0)
    again = launch("cancel", "runs/one", folder=tmp_path)
    assert (again.returncode, again.stdout) == (0, "nobody trains runs/one\n")
    # What is over is not waited for.
    began = time.monotonic()
    assert "attempt 1 starts" in launch("logs", "-f", "runs/one", folder=tmp_path).stdout
    assert time.monotonic() - began < 60


def test_a_folder_without_runs_says_so(tmp_path: Path) -> None:
    assert launch("ls", folder=tmp_path).stdout == "there are no runs in runs\n"
    (tmp_path / "x").mkdir()
    done = launch("cancel", "x", folder=tmp_path)
    assert done.returncode == 2
    assert "is not a run" in done.stderr
