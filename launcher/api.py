"""The library: what a notebook or a script may build on. These names and their meaning stay within a major
version; everything else in these packages may change. Importing it imports no torch.

All raise UserError, whose text has every problem, for what the caller can put right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from launcher.checkpoint.catalog import open_saved
from launcher.errors import UserError
from launcher.named_runs import find_run
from launcher.run_folder import require_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from launcher.data.tokenizer import Tokenizer
    from launcher.plan.plan import Plan
    from launcher.recipe.schema import Recipe

__all__ = ["Loaded", "UserError", "compare", "journal", "load", "plan"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A trained model."""

    model: "nn.Module"
    """In evaluation mode: of a language model, tokens (B, L) -> logits (B, L, V)."""
    tokenizer: "Tokenizer | None"
    """None for a model that does not read tokens."""
    recipe: "Recipe"
    step: int


def load(place: str, *, step: int | None = None, device: str = "cpu") -> Loaded:
    """The model of a run (its newest good checkpoint, or that of a step) or of a checkpoint's folder."""
    saved = open_saved(find_run(place), step)

    import torch

    from launcher.checkpoint.restore import load_model, saved_recipe
    from launcher.data.tokenizer import open_tokenizer

    recipe = saved_recipe(saved)
    model = load_model(saved, torch.device(device))
    tokenizer = open_tokenizer(saved) if recipe.model.type == "lm" else None
    return Loaded(model=model, tokenizer=tokenizer, recipe=recipe, step=saved.manifest.step)


def plan(
    recipe: str, overrides: Sequence[str] = (), *, nodes: int | None = None, nproc_per_node: int | None = None
) -> "Plan":
    """Every derived number of a recipe file, or of a shipped recipe's name; see launcher/plan/plan.py."""
    from launcher.plan.plan import make_plan
    from launcher.plan.worlds import planned_ranks
    from launcher.recipe.compile import load_recipe

    loaded = load_recipe(recipe, overrides, nodes=nodes, nproc_per_node=nproc_per_node)
    with loaded.locating():
        return make_plan(loaded.recipe, planned_ranks(loaded.recipe))


def journal(run: str, event: str = "step") -> "Mapping[str, NDArray[np.float64]]":
    """Every number of a run's logged steps, or validations, by name: `pandas.DataFrame(journal(run))`.

    Names are those in MLflow: loss, grad_norm, lr_group/matrix. Steps that were trained again count once.
    Where a line lacks a number it is NaN.
    """
    import numpy as np

    from launcher.track.points import line_points

    history = _facts(run).history
    lines = history.samples(len(history.columns["step"])) if event == "step" else history.counted(event)
    rows = [{point.key: point.value for point in line_points(line)} for line in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    return {"step": np.array([float(line["step"]) for line in lines]), **columns}


def compare(runs: Sequence[str]) -> list[dict[str, str]]:
    """A row for each run, best first: the recipe's values in which they differ, and what it has reached."""
    from launcher.report.run_tables import differences

    head, *rows = differences([_facts(run) for run in runs])
    return [dict(zip(head, row, strict=True)) for row in rows]


def _facts(run: str) -> Any:
    from launcher.report.run_facts import read_facts

    url = find_run(run)
    require_run(url)
    return read_facts(url)
