"""Errors are explained for any sections: tagged unions, also in lists, nullable or nested, and own rules."""

import json
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from launcher.recipe.tree import plain
from launcher.recipe.validation_errors import Explainer, Report
from launcher.yaml_text import parse_tree
from models.section import Section


class Sgd(Section):
    type: Literal["sgd"]
    lr: float
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Adam(Section):
    type: Literal["adam", "nadam"]
    lr: float
    betas: tuple[float, float] = (0.9, 0.95)


class Ssm(Section):
    type: Literal["ssm"]
    ssm: int
    """A key that reads like the tag of its own section."""
    inner: Sgd | None = None


class Attention(Section):
    type: Literal["attention"]
    heads: int
    width: int

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


Optimizer = Annotated[Sgd | Adam, Field(discriminator="type")]
Mixer = Annotated[Ssm | Attention, Field(discriminator="type")]


class Experiment(Section):
    optim: Optimizer
    warm: Optimizer | None = None
    mixers: tuple[Mixer, ...] = ()
    every: int | Literal["auto"] | None = None
    rates: dict[str, float] = {}


def explained(text: str) -> Report:
    tree, _ = parse_tree(text, "r")
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate_json(json.dumps(plain(tree)))
    return Explainer(Experiment.model_json_schema()).explain(tree, caught.value.errors())


OPTIM = "optim: {type: sgd, lr: 1}\n"
CASES = [
    ("optim: {type: sgd, lr: x}", "r:1:24: optim.lr is 'x', must be a number"),
    ("optim: {type: sgd}", "r:1:1: optim.lr is missing\n    add `lr: ...` (a number)"),
    ("optim: {lr: 1}", "r:1:1: optim.type is missing\n    add `type: ...` (adam, nadam or sgd)"),
    ("optim: {type: sgd, lr: 1, betas: 2}", "'betas' belongs to `type: adam` or `type: nadam`"),
    (
        "optim: {type: nadam, lr: 1, beta: 2}",
        "r:1:29: unknown key 'beta' in optim\n    did you mean 'betas'?",
    ),
    (
        OPTIM + "warm: {type: adam, lr: 1, betas: [1]}",
        "r:2:34: warm.betas is [1], must be a list of 2 values",
    ),
    (
        OPTIM + "warm: {type: adm, lr: 1}",
        "r:2:14: warm.type is 'adm', must be adam, nadam or sgd\n    did you mean",
    ),
    (OPTIM + "warm: 3", "r:2:7: warm is 3, must be a section whose `type` is adam, nadam or sgd or null"),
    (OPTIM + "mixers: [{type: ssm, ssm: x}]", "r:2:27: mixers.0.ssm is 'x', must be a whole number"),
    (OPTIM + "mixers: [{type: ssm}]", "r:2:10: mixers.0.ssm is missing"),
    (
        OPTIM + "mixers: [{type: ssm, ssm: 1, inner: {type: sgd, lr: 1, momentum: 1}}]",
        "mixers.0.inner.momentum is 1",
    ),
    (
        OPTIM + "mixers: [{type: attention, heads: 3, width: 4}]",
        "r:2:35: mixers.0: heads 3 does not divide width 4",
    ),
    (OPTIM + "every: often", "r:2:8: every is 'often', must be a whole number or auto or null"),
    (OPTIM + "rates: {a: 1, b: x}", "r:2:18: rates.b is 'x', must be a number"),
]


@pytest.mark.parametrize(("text", "words"), CASES, ids=[text.removeprefix(OPTIM) for text, _ in CASES])
def test_a_problem_is_put_in_the_recipes_own_terms(text: str, words: str) -> None:
    report = explained(text)
    said = "\n".join(map(str, [*report.guessed, *report.remaining]))
    assert words in said
    for jargon in ("Input", "tag", "union", "int_type", "literal[", "dict"):
        assert jargon not in said


def test_what_was_most_likely_meant_is_guessed_to_find_what_a_mistake_hides() -> None:
    report = explained("optim: {type: sdg, lrr: x}")
    assert [problem.place for problem in report.guessed] == ["r:1:15"]
    assert plain(report.guess) == {"optim": {"type": "sgd", "lrr": "x"}}
