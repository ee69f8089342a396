"""Recipes as hands, scripts and cats change them: a clean error, or one that plans; never a traceback."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.data.open_data import open_data
from launcher.errors import Problem, UserError
from launcher.parallel.open_engine import open_engine
from launcher.plan.plan import make_plan
from launcher.plan.plan_text import plan_text
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import compile_recipe
from launcher.recipe.loaded import LoadedRecipe
from launcher.world import world_on

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
SOURCES = {path.name: path.read_text() for path in RECIPES}
WORDS = """
0 1 2 3 7 8 64 1000 -1 1.5 1e-3 1e30 true false null ~ '' nan .inf 500M 2h 0x10 0o17 1_000 %s ../x
s4 s4d ffn attention ssd lm sgd muon lion soap adamw cosine wsd plateau sp mup umup fsdp2 ddp hsdp single
deepspeed fp32 bf16 rms batch layer completep full selective [] {} [s4] [s4d,ffn] {type:lion} \u00e9 \u4e2d
"""
SCALARS = WORDS.split()
MOST_PARAMETERS = 10**8
"""Above, building on meta takes longer than a test may."""


def mutate(sources: Mapping[str, str], random: Random) -> str:
    """A recipe with one to three changes of lines, values or characters."""
    text = sources[random.choice(sorted(sources))]
    for _ in range(random.randint(1, 3)):
        lines = text.splitlines()
        at = random.randrange(len(lines))
        change = random.choice(["value", "value", "value", "drop", "twice", "indent", "letter", "key"])
        line = lines[at]
        if change == "value":
            # One value of the line, within a section of one line as well.
            values = list(re.finditer(r"(?<=: )[^,{}\[\]#\s]+", line)) or list(re.finditer(r"\S+$", line))
            if values:
                value = random.choice(values)
                lines[at] = line[: value.start()] + random.choice(SCALARS) + line[value.end() :]
        elif change == "drop":
            del lines[at]
        elif change == "twice":
            lines.insert(at, line)
        elif change == "indent":
            lines[at] = random.choice(["", " ", "  ", "    ", "\t"]) + line.lstrip()
        elif change == "letter" and line:
            where = random.randrange(len(line))
            lines[at] = (
                line[:where] + chr(random.choice([*range(128), 0xA0, 0x2013, 0xFEFF])) + line[where + 1 :]
            )
        else:
            lines.insert(at, f"  {random.choice(['steps', 'lr', 'wibble', 'type', 'nodes'])}: 3")
        text = "\n".join(lines) + "\n"
    return text


def compiled(text: str) -> LoadedRecipe | None:
    """The recipe, or None after a clean error."""
    try:
        return compile_recipe(text, "fuzz.yaml")
    except UserError as error:
        problems = error.problems
    require_clean(problems)
    return None


def require_clean(problems: Sequence[Problem]) -> None:
    """An error says what is wrong, where, on less than a screen."""
    assert problems
    for problem in problems:
        assert problem.place
        assert problem.message
        assert len(str(problem)) < 2000


def size(recipe: Any) -> float:
    """About its number of parameters."""
    model = recipe.model
    return model.d_model**2 * model.num_layers * 12.0 + model.d_model * (getattr(model, "vocab_size", 0) or 0)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False))
def test_a_mutant_is_refused_cleanly_or_can_be_planned(random: Random) -> None:
    loaded = compiled(mutate(SOURCES, random))
    if loaded is None or size(loaded.recipe) > MOST_PARAMETERS or loaded.recipe.model.num_layers > 100:
        return
    try:
        with loaded.locating():
            plan = make_plan(loaded.recipe, planned_ranks(loaded.recipe))
    except UserError as error:
        problems = error.problems
    else:
        problems = []
        assert plan.peak.total > 0
        assert plan_text(loaded.recipe, plan)
    if problems:
        require_clean(problems)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=300))
def test_any_text_is_refused_cleanly(text: str) -> None:
    assert compiled(text) is None


@pytest.mark.parametrize("text", ["&a [*a]", "a: &x [1]\nb: *x", "!!python/object:os.system {}", "{" * 300])
def test_what_yaml_may_do_beyond_values_is_refused(text: str) -> None:
    assert compiled(text) is None


def test_a_bomb_is_refused_at_once() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    ]
    assert compiled("\n".join(lines)) is None
    assert compiled("[" + "[1, 2, 3], " * 100_000 + "]") is None


TRAINED = {
    name: text.replace("nproc_per_node: 2", "nproc_per_node: 1")
    for name, text in SOURCES.items()
    if "type: local" in text and not name.startswith("lra")
}


@pytest.mark.slow
def test_two_hundred_mutants_that_are_valid_train_two_steps() -> None:
    random, trained = Random(1), 0
    for _ in range(5_000):
        loaded = compiled(mutate(TRAINED, random))
        if loaded is None or not small_enough(loaded.recipe):
            continue
        try:
            with loaded.locating():
                losses = train_two_steps(loaded.recipe)
        except UserError as error:
            problems = error.problems
        else:
            problems = []
            assert len(losses) == 2
            trained += 1
        if problems:
            require_clean(problems)
        if trained == 200:
            break
    assert trained == 200


def small_enough(recipe: Any) -> bool:
    """For two steps in a second or so."""
    positions = recipe.train.micro_batch_size * recipe.data.seq_len
    per_rank = recipe.train.global_batch_size * recipe.data.seq_len
    alone = planned_ranks(recipe) == 1 and recipe.parallel.engine == "torch" and not recipe.parallel.compile
    return alone and size(recipe) < 3e6 and positions <= 2**14 and per_rank <= 2**16


def train_two_steps(recipe: Any) -> list[float]:
    """Losses; a step whose numbers are not finite is one that the guard would skip."""
    world = world_on("cpu")
    plan = make_plan(recipe, 1)
    with open_data(recipe, plan, world) as data:
        _, engine = open_engine(recipe, plan, world)
        return [float(engine.train_step(data.batches.at(step), 1.0).loss) for step in range(2)]
