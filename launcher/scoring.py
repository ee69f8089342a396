"""What a checkpoint's model is worth on validation data, by itself on one device."""

from collections.abc import Sequence
from typing import final

import torch
from torch import nn

from launcher.checkpoint.catalog import Saved
from launcher.checkpoint.restore import load_model, saved_recipe
from launcher.data.dataset import Batch
from launcher.data.open_data import open_data
from launcher.errors import Problem, UserError
from launcher.parallel.engine import Evaluation, evaluate_model
from launcher.plan.plan import make_plan
from launcher.recipe.compile import load_frozen_text
from launcher.recipe.loaded import LoadedRecipe
from launcher.world import World, world_on

# How it was sharded and launched says nothing of its worth; states carried between windows are training's.
_ALONE = ("parallel={}", "cluster={}", "train.truncated_bptt=false")


@final
class Scorer:
    """The model of a checkpoint, in evaluation mode, and how its run computes."""

    def __init__(self, saved: Saved, device: str) -> None:
        self._saved = saved
        self._world: World = world_on(device)
        self.model: nn.Module = load_model(saved, self._world.device)
        self._bf16 = saved_recipe(saved).parallel.precision == "bf16"

    def score(self, overrides: Sequence[str] = ()) -> tuple[Evaluation, int]:
        """(worth, sequences) on the validation data of its recipe, some values of which may be replaced."""
        loaded = self.recipe_for(overrides)
        with loaded.locating():
            plan = make_plan(loaded.recipe, 1)
            with open_data(loaded.recipe, plan, self._world) as data:
                if not data.validation.num_sequences:
                    message, remedy = "is 0: there is nothing to score", "give train.validation_sequences=N"
                    raise UserError(Problem.at("train.validation_sequences", message, remedy))
                return data.validation.score(self._evaluate), data.validation.num_sequences

    def recipe_for(self, overrides: Sequence[str]) -> LoadedRecipe:
        """The run's recipe for one process. Raises UserError for values that are wrong."""
        words = [*_ALONE, *overrides]
        return load_frozen_text(
            self._saved.manifest.recipe, self._saved.url, words, nodes=1, nproc_per_node=1
        )

    def _evaluate(self, batches: Sequence[Batch]) -> Evaluation:
        with torch.autocast(self._world.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            return evaluate_model(self.model, batches, self._world, None)
