"""What agent and supervisor say of an attempt's end: lines for people, and the call of guard.notify."""

from cluster.notify import notify
from launcher import files
from launcher.cli.main import print_lines
from launcher.cli.problems import problem_lines
from launcher.errors import StoreError, UserError
from launcher.guard.cause import Cause
from launcher.recipe.compile import load_frozen
from launcher.recipe.schema import Recipe


def read_recipe(url: str) -> Recipe | None:
    """The recipe of the run; None where it cannot be read: the ranks will say so."""
    try:
        return load_frozen(url).recipe
    except (UserError, StoreError):
        return None


def cause_lines(cause: Cause, run_url: str, *, logs: str, follows: str) -> list[str]:
    """At most ten lines on why an attempt ended, and what follows; `logs` names where more is written."""
    remedy = f"  to continue: launch resume {files.shortest(run_url)}"
    if cause.ending == "done":
        return []
    if cause.ending in ("user error", "config"):
        return [*problem_lines(cause.message), remedy.replace("continue", "continue, when that is fixed")]
    first, *others = cause.message.splitlines() or [""]
    lines = [f"launch: {cause.ending}: {first}", *(f"  {line[:200]}" for line in others[:3])]
    if cause.where:
        lines.append(f"  {cause.where}")
    if logs:
        lines.append(f"  {logs}")
    return [*lines, f"  {follows}" if follows else remedy]


def tell(cause: Cause, run_url: str, target: str | None, *, again: bool) -> None:
    """Call guard.notify for a final ending, or a stall."""
    if target is None or cause.ending == "done" or (again and cause.ending != "hang"):
        return
    record = {"run": run_url, "ending": cause.ending, "reason": cause.message, "where": cause.where}
    if (problem := notify(target, {**record, "again": str(again).lower()})) is not None:
        print_lines([f"launch: guard.notify: {problem}"])
