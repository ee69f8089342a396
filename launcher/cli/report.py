"""`launch report RUN...`: one page of what a run did, or several side by side."""

from collections.abc import Sequence
from pathlib import Path

from launcher import files
from launcher.cli.arguments import A_RUN
from launcher.cli.parser import Parser
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run
from launcher.report.run_facts import RunFacts, read_facts
from launcher.report.run_report import report_run, report_runs
from launcher.run_folder import require_run


def write_report(arguments: Sequence[str]) -> int:
    """Write the page and its pictures. Reads the run folder only, and may be called while it is trained."""
    parser = Parser(
        prog="launch report",
        description="One HTML file, with its pictures in it and beside it: what was run, loss, gradients, "
        "flow through layers, jumps, time, attempts, plan against measured. Of several runs: what differs "
        "between them, and what each has reached. It needs no network, and asks none.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=A_RUN)
    parser.add_argument("-o", "--output", metavar="DIR", help="default: RUN/report; of several runs: report")
    options = parser.parse_args(arguments)
    urls = list(dict.fromkeys(find_run(word) for word in options.runs))
    runs = [_read(url) for url in urls]
    folder = Path(options.output or _default_folder(urls))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = report_run(runs[0], folder) if len(runs) == 1 else report_runs(runs, folder)
        (folder / "index.html").write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            Problem(str(folder), f"cannot be written: {reason}", "choose another with -o DIR")
        ) from None
    print(f"report      {files.shortest(str(folder.absolute()))}/index.html")
    return 0


def _default_folder(urls: Sequence[str]) -> Path:
    local = files.local_path(urls[0])
    return Path("report") if len(urls) > 1 or local is None else local / "report"


def _read(url: str) -> RunFacts:
    require_run(url)
    facts = read_facts(url)
    if not facts.history.events:
        raise UserError(Problem(files.shortest(url), "has no journal yet", "it must have begun to train"))
    return facts
