"""A run at a glance, live on a terminal, from its journal alone: `launch watch RUN`, and below what `launch`
prints."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launcher.cli.arguments import A_RUN
from launcher.cli.echo import Echo
from launcher.cli.logs import is_trained
from launcher.cli.parser import Parser
from launcher.cli.places import PLAIN, SHOWN
from launcher.errors import UserError
from launcher.named_runs import find_run
from launcher.report.panel import panel_rows
from launcher.report.run_facts import RunFacts, read_facts
from launcher.run_folder import require_run
from launcher.table import table_lines

_EVERY_S = 2.0
_SHARE = 0.1
"""Of the time at most goes into reading the journal: one of a million lines takes seconds."""


def watch_run(arguments: Sequence[str]) -> int:
    """Show how a run stands until nobody trains it any longer; once, where the output is not a terminal."""
    parser = Parser(
        prog="launch watch",
        description="How a run stands, with its loss as a line of bars: step, time left, validation, rate, "
        "gradient norm, speed, memory, checkpoint, warnings. Live on a terminal until nobody trains the run "
        "(ctrl-C ends the watching, not the run); printed once on a pipe. It reads the journal, and works "
        "from any machine that can.",
    )
    parser.add_argument("run", help=A_RUN)
    parser.add_argument("--once", action="store_true", help="print it once, also on a terminal")
    options = parser.parse_args(arguments)
    run_url = find_run(options.run)
    require_run(run_url)
    console = Console()
    if options.once or not _is_live(console):
        rows = panel_rows(read_facts(run_url), shutil.get_terminal_size().columns)
        sys.stdout.write("\n".join(table_lines(rows)) + "\n")
        return 0
    _show_live(run_url, console)
    return 0


@contextlib.contextmanager
def panel_below(run_url: str, console_log: Path | None) -> Iterator[None]:
    """On a terminal: what is added to the console log, and below it how the run stands, until the end.

    Without a console log, on a pipe, or with LAUNCH_PLAIN set, ranks print lines, and nothing else is shown.
    """
    console = Console()
    if console_log is None or not _is_live(console) or os.environ.get(PLAIN):
        yield
        return
    end = threading.Event()
    os.environ[SHOWN] = str(console_log)
    # Transient: at the end the screen holds the lines that a pipe would have got.
    shown = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
    with shown as live, Echo(console_log, partial(_print_above, console)):
        thread = threading.Thread(target=_refresh, args=(run_url, live, end), name="panel", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(_EVERY_S)  # of a long journal it may still be reading


def _is_live(console: Console) -> bool:
    # Not console.is_terminal: with FORCE_COLOR, a pipe would be one.
    return sys.stdout.isatty() and not console.is_dumb_terminal


def _print_above(console: Console, text: str) -> None:
    """As it is: a long line is the terminal's to wrap, so that what is copied from it has no breaks."""
    # Not `soft_wrap`, which would hold for the panel below it, too, and have rich miscount its lines. In a
    # group, because rich makes one text of all that it is given, with its own idea of wrapping.
    lines = Text(text.removesuffix("\n"), no_wrap=True, overflow="ignore")
    console.print(Group(lines), crop=False)


def _refresh(run_url: str, live: Live, end: threading.Event) -> None:
    pause_s = _EVERY_S
    while not end.wait(pause_s):
        begun = time.monotonic()
        with contextlib.suppress(OSError, ValueError, UserError):  # not there yet, or being written
            panel = make_panel(read_facts(run_url, alone=True), live.console.width)
            live.update(panel, refresh=True)
        pause_s = max(_EVERY_S, (time.monotonic() - begun) / _SHARE)


def _show_live(run_url: str, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            # Asked for first: what was written before the end is then on the last panel.
            trained = is_trained(run_url)
            begun = time.monotonic()
            facts = read_facts(run_url)
            took_s = time.monotonic() - begun
            live.update(make_panel(facts, console.width), refresh=True)
            if not trained:
                return
            time.sleep(max(_EVERY_S, took_s / _SHARE))


def make_panel(facts: RunFacts, width: int) -> Table:
    """Labels on the left; what a run has written is text, never markup."""
    table = Table.grid(padding=(0, 2))
    for label, text in panel_rows(facts, width):
        style = "bold red" if label == "warning" else "bold" if label in ("step", "loss") else ""
        table.add_row(Text(label, style="dim"), Text(text, style=style, overflow="fold"))
    return table
