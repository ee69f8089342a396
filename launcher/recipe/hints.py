"""Choices that are allowed and known to go wrong: shown at plan and launch, never refused. Torch-free."""

from collections.abc import Callable, Iterator

from launcher.errors import Problem
from launcher.recipe.loaded import LoadedRecipe
from models.config import ClassifierConfig
from models.ssm.config import SSMSection

LONG = 8192
"""From this many steps on, S4D-Lin is doubtful: it learnt no Path-X (16384), but the tasks of up to 4096."""
LENGTHS_FORGOTTEN = 10.0
"""dt_min x length above which even the slowest channel has forgotten most of a sequence at its end."""


def find_hints(loaded: LoadedRecipe) -> list[Problem]:
    """Every hint for a recipe that has no errors."""
    return [hint for find in HINTS for hint in find(loaded)]


def _state_spaces(loaded: LoadedRecipe) -> Iterator[tuple[str, SSMSection]]:
    """Sections of the state-space layers that the pattern has."""
    for kind in dict.fromkeys(loaded.recipe.model.pattern):
        section = getattr(loaded.recipe.model, kind, None)  # a kind without options has no section
        if isinstance(section, SSMSection):
            yield kind, section


def _time_scales_fit_the_length(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A channel remembers about 1/dt steps (arXiv 2206.12037): some should reach over a sequence."""
    length = loaded.recipe.data.seq_len
    for kind, section in _state_spaces(loaded):
        about = loaded.cite("data.seq_len")
        if section.dt_min * length > LENGTHS_FORGOTTEN:
            yield Problem(
                loaded.place(f"model.{kind}.dt_min"),
                f"{loaded.cite(f'model.{kind}.dt_min')}: the slowest channels begin by remembering about "
                f"{1 / section.dt_min:.3g} steps, but {about}",
                f"try dt_min near {1 / length:.0e}",
            )
        if section.dt_max * length < 1 and not loaded.recipe.train.truncated_bptt:
            yield Problem(
                loaded.place(f"model.{kind}.dt_max"),
                f"{loaded.cite(f'model.{kind}.dt_max')}: even the fastest channels begin by averaging over "
                f"{1 / section.dt_max:.3g} steps, more than there are: {about}",
                f"try dt_max from {10 / length:.0e} to 1",
            )


def _lin_is_not_for_long_sequences(loaded: LoadedRecipe) -> Iterator[Problem]:
    """S4D-Lin was at chance on Path-X where LegS and Inv were not (arXiv 2206.11893)."""
    model = loaded.recipe.model
    if "s4d" in model.pattern and model.s4d.init == "lin" and loaded.recipe.data.seq_len >= LONG:
        yield Problem(
            loaded.place("model.s4d.init"),
            f"{loaded.cite('model.s4d.init')} learnt nothing on Path-X, whose sequences are of 16384 "
            f"steps; {loaded.cite('data.seq_len')}",
            "try legs or inv",
        )


def _softmax_modes_know_the_length(loaded: LoadedRecipe) -> Iterator[Problem]:
    model, length = loaded.recipe.model, loaded.recipe.data.seq_len
    if "dss" in model.pattern and model.dss.max_length not in (None, length):
        yield Problem(
            loaded.place("model.dss.max_length"),
            f"{loaded.cite('model.dss.max_length')} is what the softmax sums over, but "
            f"{loaded.cite('data.seq_len')}",
            f"use {length}",
        )


def _batch_norm_depends_on_the_forward(loaded: LoadedRecipe) -> Iterator[Problem]:
    recipe = loaded.recipe
    if not isinstance(recipe.model, ClassifierConfig) or recipe.model.norm != "batch":
        return
    per_rank = recipe.train.global_batch_size // recipe.cluster.world_size
    at_once = min(recipe.train.micro_batch_size, per_rank)
    if at_once < recipe.train.global_batch_size:
        yield Problem(
            loaded.place("model.norm"),
            f"{loaded.cite('model.norm')} normalises over the {at_once} sequences of one forward, not "
            f"over {loaded.cite('train.global_batch_size')}: losses depend on ranks and micro_batch_size",
            "keep both as they were when the rates were tuned, or use norm layer",
        )


HINTS: tuple[Callable[[LoadedRecipe], Iterator[Problem]], ...] = (
    _time_scales_fit_the_length,
    _lin_is_not_for_long_sequences,
    _softmax_modes_know_the_length,
    _batch_norm_depends_on_the_forward,
)
