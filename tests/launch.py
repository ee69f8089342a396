"""The real `launch` command, as a user calls it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LAUNCH = [sys.executable, "-c", "import sys; from launcher.cli.main import main; sys.exit(main())"]
# One thread a rank, so that tests side by side do not starve each other.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def launch(*words: str, folder: Path, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run `launch WORDS` in a folder to its end."""
    return subprocess.run(
        [*LAUNCH, *words],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def launch_and_kill(*words: str, folder: Path, when: Path, timeout_s: float = 240.0) -> None:
    """Run `launch WORDS` and SIGKILL the one process that the user started, once a file is there."""
    process = subprocess.Popen(
        [*LAUNCH, *words],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + timeout_s
    try:
        while not when.exists():
            assert process.poll() is None, f"it ended before {when} was there:\n{process.communicate()[0]}"
            assert time.monotonic() < deadline, f"{when} was not there after {timeout_s} s"
            time.sleep(0.02)
        process.kill()
        process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def assert_one_screen(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    """A user's mistake: exit code 2, no traceback, at most a screen, with all that it must say."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.splitlines()) <= 40
    for fragment in fragments:
        assert fragment in done.stderr, f"{fragment!r} is not in:\n{done.stderr}"
