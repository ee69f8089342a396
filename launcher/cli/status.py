"""`launch status RUN`."""

import argparse
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from launcher import files
from launcher.checkpoint.catalog import list_steps, step_folder
from launcher.cli.tracking import settle_lost
from launcher.errors import UserError
from launcher.recipe.compile import load_frozen
from launcher.run_folder import JOURNAL, RECIPE, lock_holder, open_mirror, require_run
from launcher.table import table_lines
from launcher.track.journal import count_damaged, read_journal
from launcher.track.ledger import Ledger, make_ledger
from launcher.track.mlflow_sync import describe_sent
from launcher.track.settle import find_last


def show_status(arguments: Sequence[str]) -> int:
    """Print how a run stands. An attempt whose processes are gone without a word is ended here."""
    parser = argparse.ArgumentParser(prog="launch status", description="How a run ended, or how far it is.")
    parser.add_argument("run", help="folder of the run")
    run_url = files.absolute(parser.parse_args(arguments).run)
    require_run(run_url)
    holder = lock_holder(run_url)
    if holder is None:
        # A read-only folder, or one that another process has locked since: shown as it is.
        with contextlib.suppress(UserError, OSError):
            settle_lost(run_url)
    print("\n".join(status_lines(run_url, holder)))
    return 0


def status_lines(run_url: str, holder: str | None) -> list[str]:
    """A line for each thing there is to know."""
    total = load_frozen(files.join(run_url, RECIPE)).recipe.train.steps
    folder = open_mirror(run_url, is_main=True).folder
    path = folder / JOURNAL
    records = read_journal(path) if path.exists() else []
    steps = [record["step"] for record in records if record["event"] == "step"]
    saved = list_steps(run_url)
    newest = files.shortest(step_folder(run_url, saved[-1])) if saved else "none"
    rows = [
        ["run", files.shortest(run_url)],
        ["state", _state(records, holder)],
        ["step", f"{max([*steps[-1:], *saved[-1:], 0])} of {total}"],
        ["checkpoint", newest],
    ]
    rows.append(["mlflow", describe_sent(folder) or "nothing sent"])
    if path.exists() and (damaged := count_damaged(path)):
        rows.append(["journal", f"{damaged} damaged line{'s' * (damaged > 1)} passed over"])
    lines = table_lines(rows)
    return lines + (ledger_lines(make_ledger(records)) if records else [])


def ledger_lines(ledger: Ledger) -> list[str]:
    """Where the time went, largest part first."""
    total = ledger.total_s
    spent = sorted(ledger.seconds.items(), key=lambda item: -item[1])
    rows = [[part, _clock_text(s), f"{s / total:.1%}"] for part, s in spent if total and s >= 0.0005 * total]
    return ["", *table_lines([["time", _clock_text(total), f"{ledger.goodput:.1%} goodput"], *rows])]


def _clock_text(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _state(records: Sequence[dict[str, Any]], holder: str | None) -> str:
    last = find_last(records)
    if last is None:
        return "has not started" if holder is None else f"starting, {holder}"
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.begun))
    if holder is not None:
        return f"training, {holder}, attempt {last.attempt} since {begun}"
    if last.end is None:
        return f"attempt {last.attempt} of {begun} ended without a word"
    ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.end["time"]))
    reason = f": {last.end['reason']}" if "reason" in last.end else ""
    return f"{last.end['class']} (attempt {last.attempt}, {ended}){reason}"
