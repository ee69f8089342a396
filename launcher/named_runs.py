"""Runs by what people call them: a folder, a name in runs/, the beginning of one, or `latest`. Torch-free."""

from pathlib import Path

from launcher import files
from launcher.errors import Problem, UserError
from launcher.recipe.suggest import close_matches, did_you_mean
from launcher.run_folder import JOURNAL, RECIPE, is_run

RUNS = Path("runs")
"""Where runs are, below the folder in which `launch` is called."""
LATEST = "latest"


def name_of(run_url: str) -> str:
    """What a run is called: its folder's name."""
    return run_url.rstrip("/").rsplit("/", 1)[-1]


def find_run(word: str) -> str:
    """The URL of a run, or of any other folder that is called so.

    Raises UserError for several that begin so, and for none that is called anything like it.
    """
    if "://" in word or "/" in word or Path(word).exists():
        return files.absolute(word)
    runs = {place.name: place for place in sorted(RUNS.glob("*")) if is_run(str(place))}
    if word == LATEST and runs:
        return files.absolute(str(max(runs.values(), key=_last_written)))
    found = [word] if word in runs else [name for name in runs if name.startswith(word)]
    if len(found) > 1:
        shown = ", ".join(found[-5:]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise UserError(Problem(word, f"is the beginning of {len(found)} runs: {shown}", "write more of it"))
    if not found:
        near = did_you_mean(close_matches(word, list(runs)))
        remedy = near or (
            f"runs here: {', '.join(list(runs)[-5:])}" if runs else f"there are no runs in {RUNS}/"
        )
        raise UserError(
            Problem(word, f"is neither a folder nor the beginning of a run's name in {RUNS}/", remedy)
        )
    return files.absolute(str(runs[found[0]]))


def _last_written(run: Path) -> float:
    journal = run / JOURNAL
    return (journal if journal.exists() else run / RECIPE).stat().st_mtime
