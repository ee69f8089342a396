"""`launch logs RUN`: the console of all attempts, or one rank's own output."""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.slurm_job import QueueError
from launcher import files
from launcher.cli.arguments import A_RUN
from launcher.cli.parser import Parser
from launcher.cli.queued import ask_queue
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run
from launcher.run_folder import CONSOLE, lock_holder, open_mirror, require_run

_POLL_S = 0.5
_LOOK_S = 5.0
"""Between two looks whether somebody still trains."""


def show_logs(arguments: Sequence[str]) -> int:
    """Print a run's log, and with -f what is added to it until nobody trains the run any longer."""
    parser = Parser(
        prog="launch logs",
        description="What a run has printed, over all its attempts. In a batch job each rank has a file of "
        "its own as well, in RUN/logs/job-ID.RESTART.NUMBER.",
    )
    parser.add_argument("run", help=A_RUN)
    parser.add_argument("-f", "--follow", action="store_true", help="wait for more while it is trained")
    parser.add_argument("--rank", type=int, metavar="R", help="what this rank has printed itself")
    parser.add_argument("--attempt", type=int, metavar="A", help="only of this attempt; default the newest")
    options = parser.parse_args(arguments)
    run_url = find_run(options.run)
    require_run(run_url)
    if options.rank is not None:
        path = find_rank_log(run_url, options.rank, options.attempt)
        return follow(path, run_url) if options.follow else _print(path.read_text(errors="replace"))
    path = open_mirror(run_url, is_main=True).folder / CONSOLE
    while options.follow and not path.exists() and is_trained(run_url):
        time.sleep(_POLL_S)
    if not path.exists():
        raise UserError(
            Problem(files.shortest(run_url), "has printed nothing yet", f"launch status {options.run}")
        )
    if options.attempt is not None:
        return _print(cut_attempt(path.read_text(errors="replace"), options.attempt, files.shortest(run_url)))
    return follow(path, run_url) if options.follow else _print(path.read_text(errors="replace"))


def cut_attempt(text: str, attempt: int, short: str) -> str:
    """The part of a console that one attempt has printed. Raises UserError where there is none."""
    lines = text.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if re.match(r"attempt \d+ starts from", line)]
    numbers = [int(lines[at].split()[1]) for at in starts]
    if attempt not in numbers:
        known = f"attempts are {', '.join(map(str, numbers))}" if numbers else "none has started"
        raise UserError(Problem(f"--attempt {attempt}", f"{short} has no such attempt", known))
    # What a rank says before this line is about its data: it belongs to the attempt as well.
    begin = starts[numbers.index(attempt)]
    while begin > 0 and lines[begin - 1].startswith("data: "):
        begin -= 1
    later = [at for at in starts if at > begin and lines[at].split()[1] != str(attempt)]
    end = later[0] if later else len(lines)
    while end > begin and later and lines[end - 1].startswith("data: "):
        end -= 1
    return "".join(lines[begin:end])


def find_rank_log(run_url: str, rank: int, attempt: int | None) -> Path:
    """The newest file of a rank, or that of an attempt. Raises UserError."""
    local = files.local_path(run_url)
    folders = sorted((local / "logs").glob("job-*"), key=lambda path: path.stat().st_mtime) if local else []
    if attempt is not None:
        begins = f"attempt {attempt} starts from"
        folders = [folder for folder in folders if begins in _text_of(folder / "rank-0.log")]
    for folder in reversed(folders):
        if (path := folder / f"rank-{rank}.log").exists():
            return path
    message = f"{files.shortest(run_url)} has no file of this rank" + f" in attempt {attempt}" * (
        attempt is not None
    )
    remedy = "ranks have their own in batch jobs; elsewhere all print to one console: launch logs RUN"
    raise UserError(Problem(f"--rank {rank}", message, remedy))


def _text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def follow(path: Path, run_url: str) -> int:
    """Print a file, and what is added to it."""
    looked = time.monotonic()
    with open(path, errors="replace") as stream:
        while True:
            _print(stream.read())
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                if not is_trained(run_url):
                    return _print(stream.read())
            time.sleep(_POLL_S)


def is_trained(run_url: str) -> bool:
    """Whether somebody trains a run now, or its job waits in the queue."""
    if lock_holder(run_url) is not None:
        return True
    try:
        queued = ask_queue(run_url)
        return queued is not None and not queued.state.is_over
    except QueueError:
        return True


def _print(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0
