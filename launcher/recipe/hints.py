"""Choices that are allowed but known to fail: shown at plan and launch, never refused. Torch-free."""

import re
from collections.abc import Callable, Iterator

from launcher.errors import Problem
from launcher.plan.worlds import planned_ranks
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.tree import find, split_key
from models.config import ClassifierConfig
from models.ssm.config import SSMSection

LONG = 8192
"""Steps from which S4D-Lin is doubtful: it learned tasks of up to 4096 steps, but not Path-X (16384)."""
LENGTHS_FORGOTTEN = 10.0
"""dt_min x length above which even the slowest channel has forgotten most of a sequence by its end."""


def find_hints(loaded: LoadedRecipe) -> list[Problem]:
    """Every hint for a recipe that has no errors."""
    return [hint for find in HINTS for hint in find(loaded)]


def _state_spaces(loaded: LoadedRecipe) -> Iterator[tuple[str, SSMSection]]:
    """Sections of the state-space layers in the pattern."""
    for kind in dict.fromkeys(loaded.recipe.model.pattern):
        section = getattr(loaded.recipe.model, kind, None)  # a kind without options has no section
        if isinstance(section, SSMSection):
            yield kind, section


def _time_scales_fit_the_length(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A channel remembers about 1/dt steps (arXiv 2206.12037): some should span a sequence."""
    # At 16384 steps, dt_min 0.001 has the slowest channels remember 1000 steps, a sixteenth of the sequence:
    # dt_min x length is 16.4, above 10, and the hint proposes 1/16384, about 6e-5. At the other end, dt_max
    # 0.001 over 784 steps has even the fastest channels average over 1000 steps, so that none sees detail.
    length = loaded.recipe.data.seq_len
    for kind, section in _state_spaces(loaded):
        about = loaded.cite("data.seq_len")
        if section.dt_min * length > LENGTHS_FORGOTTEN:
            yield Problem(
                loaded.place(f"model.{kind}.dt_min"),
                f"{loaded.cite(f'model.{kind}.dt_min')}: the slowest channels initially remember about "
                f"{1 / section.dt_min:.3g} steps, but {about}",
                f"try dt_min near {1 / length:.0e}",
            )
        if section.dt_max * length < 1 and not loaded.recipe.train.truncated_bptt:
            yield Problem(
                loaded.place(f"model.{kind}.dt_max"),
                f"{loaded.cite(f'model.{kind}.dt_max')}: even the fastest channels initially average over "
                f"{1 / section.dt_max:.3g} steps, more than there are: {about}",
                f"try dt_max from {10 / length:.0e} to 1",
            )


def _lin_is_not_for_long_sequences(loaded: LoadedRecipe) -> Iterator[Problem]:
    """S4D-Lin was at chance on Path-X where LegS and Inv were not (arXiv 2206.11893)."""
    model = loaded.recipe.model
    if "s4d" in model.pattern and model.s4d.init == "lin" and loaded.recipe.data.seq_len >= LONG:
        yield Problem(
            loaded.place("model.s4d.init"),
            f"{loaded.cite('model.s4d.init')} stayed at chance on Path-X, whose sequences have 16384 "
            f"steps; {loaded.cite('data.seq_len')}",
            "try legs or inv",
        )


def _softmax_modes_know_the_length(loaded: LoadedRecipe) -> Iterator[Problem]:
    # The softmax of DSS normalizes each mode over max_length steps. With 1024 there and sequences of 2048,
    # the kernel is scaled for another length than it has: allowed, but rarely meant.
    model, length = loaded.recipe.model, loaded.recipe.data.seq_len
    if "dss" in model.pattern and model.dss.max_length not in (None, length):
        yield Problem(
            loaded.place("model.dss.max_length"),
            f"{loaded.cite('model.dss.max_length')} is the length that the softmax sums over, but "
            f"{loaded.cite('data.seq_len')}",
            f"use {length}",
        )


def _batch_norm_depends_on_the_forward(loaded: LoadedRecipe) -> Iterator[Problem]:
    recipe = loaded.recipe
    if not isinstance(recipe.model, ClassifierConfig) or recipe.model.norm != "batch":
        return
    # Without dropout, all else gives the same losses on 1 rank with 32 sequences as on 4 ranks with 8 each.
    # Batch norm does not: its means are over 32 sequences there, over 8 here.
    per_rank = recipe.train.global_batch_size // planned_ranks(recipe)
    at_once = min(recipe.train.micro_batch_size, per_rank)
    if at_once < recipe.train.global_batch_size:
        yield Problem(
            loaded.place("model.norm"),
            f"{loaded.cite('model.norm')} normalizes over the {at_once} sequences of one forward, not "
            f"over {loaded.cite('train.global_batch_size')}: losses depend on ranks and micro_batch_size",
            "keep both as they were when the rates were tuned, or use norm layer",
        )


_SECRET = re.compile(r"(?i)secret|token|passw(or)?d|credential|api_?key|access_key")


def _secrets_are_not_for_recipes(loaded: LoadedRecipe) -> Iterator[Problem]:
    for name in loaded.recipe.cluster.env:
        if _SECRET.search(name):
            yield Problem(
                loaded.place("cluster.env"),
                f"the value of {name} is written into job.sh and recipe.yaml, which others may read",
                "set it in the environment that launch is called in; it is passed on",
            )


def _thousands_may_be_meant_as_1024(loaded: LoadedRecipe) -> Iterator[Problem]:
    """256k is 256,000. For a length or a vocabulary, 262,144 is as likely to be meant."""
    for key in ("data.seq_len", "model.vocab_size"):
        node = find(loaded.tree, split_key(key))
        found = re.fullmatch(r"([0-9]+)([kK])", node.text) if node is not None else None
        if found is not None and (number := int(found[1])) & (number - 1) == 0 and number > 1:
            remedy = f"write {number * 1024} for {number} x 1024"
            yield Problem(loaded.place(key), f"{key} = {found[0]} is {number * 1000:,}", remedy)


HINTS: tuple[Callable[[LoadedRecipe], Iterator[Problem]], ...] = (
    _time_scales_fit_the_length,
    _lin_is_not_for_long_sequences,
    _softmax_modes_know_the_length,
    _batch_norm_depends_on_the_forward,
    _secrets_are_not_for_recipes,
    _thousands_may_be_meant_as_1024,
)
