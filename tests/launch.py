"""The real `launch` command, as a user calls it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import IO, NoReturn

import torch

LAUNCH = [sys.executable, "-c", "import sys; from launcher.cli.main import main; sys.exit(main())"]
# One thread a rank, so that tests side by side do not starve each other.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def launch(*words: str, folder: Path, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run `launch WORDS` in a folder to its end.

    In a fork of this process, which has imported torch already: a command of its own would take three seconds
    for that. What the command becomes (torchrun, its ranks) are programs of their own.
    """
    from launcher.cli.main import main

    return _run_forked(main, ["launch", *words], folder, timeout_s)


def launch_rank(run_url: str, *, folder: Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run the one process of a run as if it had been started without torchrun; in a fork, like `launch`."""
    from launcher.cli.rank import main

    return _run_forked(main, ["launcher.cli.rank", "--run-dir", run_url], folder, timeout_s)


def start_launch(*words: str, folder: Path, env: Mapping[str, str]) -> int:
    """Start `launch WORDS` in a fork, in a session of its own; returns its process id. Output in out.txt."""
    from launcher.cli.main import main

    with open(folder / "out.txt", "ab") as out:
        pid = os.fork()
        if pid == 0:
            os.environ |= env
            _become(main, ["launch", *words], folder, out, out)
    return pid


def _run_forked(
    main: Callable[[], int], argv: list[str], folder: Path, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _become(main, argv, folder, out, err)
        deadline = time.monotonic() + timeout_s
        ended, status = 0, 0
        while not ended:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError(f"{argv} did not end in {timeout_s} s: {_read(out)}{_read(err)}")
            time.sleep(0.01)
        code = os.waitstatus_to_exitcode(status)
        return subprocess.CompletedProcess(argv, code, _read(out), _read(err))


def _become(
    main: Callable[[], int], argv: list[str], folder: Path, out: IO[bytes], err: IO[bytes]
) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.environ |= ENVIRONMENT
        torch.set_num_threads(1)
        _forget_server()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = argv
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _forget_server() -> None:
    """The server of forks of a test before is not this fork's child: it starts one of its own."""
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


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
