"""`launch status [RUN]` and `launch ls`."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from cluster.slurm_job import QueueError
from launcher import files
from launcher.checkpoint.catalog import list_steps, step_folder
from launcher.cli.arguments import A_RUN
from launcher.cli.parser import Parser
from launcher.cli.queued import ask_queue
from launcher.cli.tracking import settle_lost
from launcher.errors import UserError
from launcher.json_text import dump_json
from launcher.named_runs import find_run
from launcher.recipe.compile import load_frozen
from launcher.run_folder import JOURNAL, RECIPE, is_run, lock_holder, open_mirror, require_run
from launcher.run_jobs import last_job, read_jobs
from launcher.table import table_lines
from launcher.track.history import History, read_history
from launcher.track.ledger import Ledger
from launcher.track.mlflow_sync import describe_sent
from launcher.track.settle import state_text


def show_status(arguments: Sequence[str]) -> int:
    """Print how a run stands. An attempt whose processes are gone without a word is ended here."""
    parser = Parser(
        prog="launch status", description="How a run ended, or how far it is; without RUN, a table of all."
    )
    parser.add_argument(
        "run",
        nargs="?",
        help=f"{A_RUN}; default: all of runs/",
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON; without RUN, a list")
    options = parser.parse_args(arguments)
    if options.run is None:
        return list_runs(["--json"] if options.json else [])
    run_url = find_run(options.run)
    require_run(run_url)
    holder = lock_holder(run_url)
    if holder is None:
        # A read-only folder, or one that another process has locked since: shown as it is.
        with contextlib.suppress(UserError, OSError):
            settle_lost(run_url)
    if options.json:
        print(dump_json(status_record(run_url, holder), indent=1))
        return 0
    print("\n".join(status_lines(run_url, holder)))
    return 0


def list_runs(arguments: Sequence[str]) -> int:
    """Print a line for each run in a folder, newest last."""
    parser = Parser(prog="launch ls", description="A line for each run in a folder.")
    parser.add_argument("folder", nargs="?", default="runs", help="default: runs")
    parser.add_argument("--json", action="store_true", help="a list of JSON")
    options = parser.parse_args(arguments)
    folder = files.absolute(options.folder)
    places = [files.join(folder, name) for name in files.list_names(folder)]
    found = [_record(place) for place in places if is_run(place)]
    if options.json:
        print(dump_json(found, indent=1))
        return 0
    rows = [_row(record) for record in found]
    if not rows:
        print(f"there are no runs in {files.shortest(folder)}")
        return 0
    print("\n".join(table_lines([["run", "state", "step", "loss", "checkpoint", "job"], *rows])))
    return 0


def _record(run_url: str) -> dict[str, Any]:
    """Of a run whose folder cannot be read, why."""
    try:
        facts = _read_facts(run_url)
    except (UserError, OSError) as error:
        return {"run": files.shortest(run_url), "error": " ".join(str(error).split())}
    return _known(run_url, facts, lock_holder(run_url))


def _known(run_url: str, facts: "_Facts", holder: str | None) -> dict[str, Any]:
    losses = facts.history.columns["loss"]
    return {
        "run": files.shortest(run_url),
        "state": state_text(facts.history.events, holder),
        "step": facts.step,
        "steps": facts.total,
        "loss": float(losses[-1]) if len(losses) else None,
        "checkpoint": facts.saved[-1] if facts.saved else None,
        "job": last_job(read_jobs(run_url)),
    }


def _row(record: Mapping[str, Any]) -> list[str]:
    if "error" in record:
        return [record["run"], record["error"][:60], "", "", "", ""]
    state = record["state"].split(",")[0].split(" (attempt")[0]
    saved = "none" if record["checkpoint"] is None else f"step {record['checkpoint']}"
    loss = "" if record["loss"] is None else f"{record['loss']:.4f}"
    return [record["run"], state, f"{record['step']}/{record['steps']}", loss, saved, record["job"] or ""]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a run folder says."""

    total: int
    folder: Path
    history: History
    saved: Sequence[int]

    @property
    def step(self) -> int:
        return max([self.history.step, *self.saved[-1:]])


def _read_facts(run_url: str) -> _Facts:
    total = load_frozen(files.join(run_url, RECIPE)).recipe.train.steps
    folder = open_mirror(run_url, is_main=True).folder
    history = read_history(folder / JOURNAL)
    return _Facts(total=total, folder=folder, history=history, saved=list_steps(run_url))


def queue_text(run_url: str) -> str | None:
    """What the scheduler says of the run's job; None for a run that has none."""
    try:
        queued = ask_queue(run_url)
    except QueueError as error:
        return f"{last_job(read_jobs(run_url))}: Slurm gives no answer ({error})"
    if queued is None:
        return None
    job, found = queued.job, queued.state
    if found.state == "UNKNOWN":
        return f"{job}: over, and forgotten by Slurm"
    reason = f" ({found.reason})" if found.reason not in ("", "None") else ""
    nodes = f" on {found.nodes}" if found.nodes not in ("", "(null)") else ""
    begin = f", begins {found.begin}" if found.state == "PENDING" and found.begin != "Unknown" else ""
    return f"{job}: {found.state}{reason}{nodes}{begin}"


def status_record(run_url: str, holder: str | None) -> dict[str, Any]:
    """The same for programs: as in `launch ls --json`, and more."""
    facts = _read_facts(run_url)
    history = facts.history
    last = history.lines([-1])[0] if history.step else {}
    return _known(run_url, facts, holder) | {
        "queue": queue_text(run_url),
        "tokens_per_s": last.get("tokens_per_s"),
        "best_validation": history.best_validation,
        "mlflow": describe_sent(facts.folder),
        "damaged_lines": history.damaged,
        "time": history.ledger.as_fields(),
    }


def status_lines(run_url: str, holder: str | None) -> list[str]:
    """A line for each thing there is to know."""
    facts = _read_facts(run_url)
    history, saved = facts.history, facts.saved
    rows = [
        ["run", files.shortest(run_url)],
        ["state", state_text(history.events, holder)],
        *([["job", text]] if (text := queue_text(run_url)) is not None else []),
        ["step", f"{facts.step} of {facts.total}"],
        *([["loss", _loss_text(facts, history.lines([-1])[0])]] if history.step else []),
        *([["memory", text]] if (text := _memory_text(history)) else []),
        ["checkpoint", files.shortest(step_folder(run_url, saved[-1])) if saved else "none"],
        ["mlflow", describe_sent(facts.folder) or "nothing sent"],
    ]
    if damaged := history.damaged:
        rows.append(["journal", f"{damaged} damaged line{'s' * (damaged > 1)} passed over"])
    return table_lines(rows) + (ledger_lines(history.ledger) if history.events else [])


def _memory_text(history: History) -> str:
    """What a device has needed against what was planned; empty where only one of them is known."""
    # A device's peak only grows, so each attempt's last line has it.
    lines = [history.last_line(start["attempt"]) for start in history.of("start")]
    measured = [line["memory_gb"] for line in lines if line.get("memory_gb")]
    planned = [begin["planned_memory_gb"] for begin in history.of("begin") if "planned_memory_gb" in begin]
    if not (measured and planned):
        return ""
    return f"{max(measured):.3g} GB at most on a device, {planned[-1]:.3g} GB planned"


def _loss_text(facts: _Facts, last: dict[str, Any]) -> str:
    left_s = (facts.total - last["step"]) * float(last.get("step_time_s", 0.0))
    speed = f", {last['tokens_per_s']:.3g} tokens/s" if "tokens_per_s" in last else ""
    return f"{last['loss']:.4f}{speed}" + (f", {_clock_text(left_s)} to train" if left_s else "")


def ledger_lines(ledger: Ledger) -> list[str]:
    """Where the time went, largest part first."""
    parts = ledger.largest_first
    rows = [[part, _clock_text(s), f"{share:.1%}"] for part, s, share in parts if share >= 0.0005]
    head = ["time", _clock_text(ledger.total_s), f"{ledger.goodput:.1%} goodput"]
    return ["", *table_lines([head, *rows])]


def _clock_text(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
