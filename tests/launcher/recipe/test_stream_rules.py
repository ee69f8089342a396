"""Truncated backpropagation through time is refused where nothing can be carried, or without an end."""

import pytest

from launcher.recipe.compile import compile_recipe
from launcher.recipe.hints import find_hints
from tests.launcher.recipe.small import SMALL, problems

ON = "train.truncated_bptt=true"


@pytest.mark.parametrize("kind", ["s4", "s4d", "dss", "momentum", "ffn"])
def test_layers_with_a_state_of_one_size_are_taken(kind: str) -> None:
    assert problems(ON, f"model.pattern=[{kind}]", "model.momentum={d_head: 4}") == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("model.pattern=[s4d, attention]", "model.attention={d_head: 4}"),
            (
                "model.pattern = [s4d, attention] (override 'model.pattern=[s4d, attention]')",
                "every past position, but train.truncated_bptt = true (override",
                "leave attention out",
            ),
        ),
        (
            ("model.pattern=[dss]", "model.dss={version: softmax, max_length: 32}"),
            ("model.dss.version = softmax", "lets modes grow", "use version exp"),
        ),
        (
            ("data={source: {type: copying}, seq_len: 32}",),
            ("train.truncated_bptt = true", "data.source.type = copying", "stand alone", "text or tokens"),
        ),
    ],
)
def test_what_cannot_carry_a_state_is_named(overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    (found,) = problems(ON, *overrides)
    for word in words:
        assert word in found
    assert problems(*overrides) == []


def test_fast_channels_may_remember_more_than_a_window() -> None:
    slow = "model.s4d={d_state: 8, dt_min: 0.001, dt_max: 0.002}"
    assert len(find_hints(compile_recipe(SMALL, "small.yaml", (slow,)))) == 1
    assert find_hints(compile_recipe(SMALL, "small.yaml", (slow, ON))) == []
