"""`launch report RUN...`: one page of what a run did, or several side by side."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher import files
from launcher.cli.arguments import A_RUN
from launcher.cli.main import print_lines
from launcher.cli.parser import Parser
from launcher.cli.tracking import SETTLE_S, find_target, mlflow_environment, within_limit
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run
from launcher.recipe.schema import Recipe
from launcher.report.run_facts import RunFacts, read_facts
from launcher.report.run_report import report_run, report_runs
from launcher.run_folder import is_run, open_mirror, require_run
from launcher.track.config import MLflowConfig
from launcher.track.mlflow_sync import send_file


def write_report(arguments: Sequence[str]) -> int:
    """Write the page and its pictures. Reads the run folder only, and may be called while it is trained."""
    parser = Parser(
        prog="launch report",
        description="One HTML file, with its pictures in it and beside it: what was run, loss, gradients, "
        "flow through layers, jumps, time, attempts, plan against measured. Of several runs: what differs "
        "between them, and what each has reached. It needs no network, and asks none.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{A_RUN}; or a sweep's folder")
    parser.add_argument("-o", "--output", metavar="DIR", help="default: RUN/report; of several runs: report")
    parser.add_argument(
        "--mlflow", action="store_true", help="store a run's page with its artifacts, as report/index.html"
    )
    options = parser.parse_args(arguments)
    urls = list(dict.fromkeys(_runs_of(options.runs)))
    if options.mlflow and len(urls) > 1:
        raise UserError(Problem("--mlflow", f"got {len(urls)} runs", "give it with one"))
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
    if options.mlflow:
        problem = _send(runs[0].url, runs[0].recipe.track.mlflow, folder / "index.html")
        if problem is not None:
            short = files.shortest(urls[0])
            raise UserError(Problem(short, f"the report is not stored: {problem}", f"launch replay {short}"))
        print("mlflow      report/index.html is with the run's artifacts")
    return 0


def _runs_of(words: Sequence[str]) -> Iterator[str]:
    """Of a sweep's folder its points. Files, which `runs/sweep-NAME/*` names too, are passed over."""
    for word in words:
        place = Path(word)
        if len(words) > 1 and place.is_file():
            continue
        inside: list[str] = []
        if place.is_dir() and not is_run(files.absolute(word)):
            inside = [files.absolute(str(one)) for one in sorted(place.glob("*")) if is_run(str(one))]
        yield from inside or [find_run(word)]


def publish_report(run_url: str, recipe: Recipe | None) -> None:
    """Of a run that is done, if its recipe says so. It has ended: nothing here may change how."""
    if recipe is None or not (recipe.track.mlflow.enabled and recipe.track.mlflow.report):
        return
    with tempfile.TemporaryDirectory() as folder:
        page, local = Path(folder) / "index.html", files.local_path(run_url)
        try:
            page = (local / "report" if local is not None else Path(folder)) / "index.html"
            page.parent.mkdir(exist_ok=True)
            page.write_text(report_run(_read(run_url, alone=True), page.parent, alone=True), encoding="utf-8")
            problem = _send(run_url, recipe.track.mlflow, page)
        # Whatever it is: a page is not worth the end of a run.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        print_lines([f"launch: the report is not stored in MLflow: {problem}"])


def _send(run_url: str, config: MLflowConfig, page: Path) -> str | None:
    """Returns why it failed, or None; within a bounded time."""
    os.environ |= mlflow_environment()
    folder = open_mirror(run_url, is_main=True).folder
    target = find_target(config, folder)
    late: str | None = f"no answer within {SETTLE_S:g} s"
    return within_limit(lambda: send_file(folder, target, page, "report"), late)


def _default_folder(urls: Sequence[str]) -> Path:
    local = files.local_path(urls[0])
    return Path("report") if len(urls) > 1 or local is None else local / "report"


def _read(url: str, *, alone: bool = False) -> RunFacts:
    require_run(url)
    facts = read_facts(url, alone=alone)
    if not facts.history.events:
        raise UserError(Problem(files.shortest(url), "has no journal yet", "it must have begun to train"))
    return facts
