"""Temporary folders, also of processes that were killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from launcher.spool import Spool


def test_folders_of_killed_processes_are_removed_and_of_living_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    script = "from launcher.spool import Spool; s = Spool(); print(s.folder, flush=True); input()"
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    folders = []
    for process in started:
        assert process.stdout is not None
        folders.append(Path(process.stdout.readline().decode().strip()))
    started[0].send_signal(signal.SIGKILL)
    started[0].wait()
    with Spool() as first:
        assert [folder.is_dir() for folder in folders] == [True, True], "both are new"
        for folder in folders:
            os.utime(folder, (0, 0))
        with Spool() as second:
            assert [folder.is_dir() for folder in folders] == [False, True]
        assert first.folder.is_dir()
        assert not second.folder.exists()
    started[1].kill()
    started[1].wait()
