"""What is known of one run, read from its folder for a report. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from launcher import files
from launcher.checkpoint.catalog import list_steps
from launcher.json_text import load_json
from launcher.named_runs import name_of
from launcher.recipe.compile import load_frozen
from launcher.recipe.schema import Recipe
from launcher.run_folder import JOURNAL, PLAN, RECIPE, lock_holder, open_mirror
from launcher.track.history import History, read_history
from launcher.track.settle import state_text


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run."""

    url: str
    name: str
    """Of its folder."""
    recipe: Recipe
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    history: History
    saved: Sequence[int]
    """Steps of its checkpoints."""
    state: str

    @property
    def total(self) -> int:
        """Steps that it is to train."""
        return self.recipe.train.steps


def read_facts(run_url: str, *, alone: bool = False) -> RunFacts:
    """Everything that a report says comes from here, and all but recipe and plan from the journal.

    `alone`: without other processes, however long the journal is.
    """
    mirror = open_mirror(run_url, is_main=True)
    history = read_history(mirror.folder / JOURNAL, alone=alone)
    return RunFacts(
        url=run_url,
        name=name_of(run_url),
        recipe=load_frozen(files.join(run_url, RECIPE)).recipe,
        plan=load_json(files.read_bytes(files.join(run_url, PLAN))),
        environment=mirror.environment(),
        history=history,
        saved=list_steps(run_url),
        state=state_text(history.events, lock_holder(run_url)),
    )
