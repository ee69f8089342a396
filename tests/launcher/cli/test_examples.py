"""Every verb's help ends with two examples that can be typed, and with its exit codes."""

import re
from pathlib import Path

import pytest

from launcher.cli.examples import _TRAINS, EXAMPLES, EXIT_CODES, help_end
from launcher.cli.main import VERBS
from launcher.ending import REACTIONS
from launcher.shipped import shipped_recipes
from tests.launch import launch
from tests.test_hints import DATA_VERBS, wrong_with

PROGS = {"launch", *(f"launch {verb}" for verb in VERBS if verb != "data")}
PROGS |= {f"launch data {verb}" for verb in DATA_VERBS}


def test_every_verb_has_two_examples() -> None:
    assert EXAMPLES.keys() == PROGS
    assert EXIT_CODES.keys() <= PROGS


@pytest.mark.parametrize("prog", sorted(PROGS))
def test_examples_can_be_typed(prog: str) -> None:
    for example in EXAMPLES[prog]:
        assert example.startswith(f"{prog} ") or example == prog
        verb, *words = example.removeprefix("launch ").split()
        assert wrong_with(verb, words) is None, example
        for name in re.findall(r"(?<![\w/-])s4d?-lm-[\w-]+", example):
            assert name in shipped_recipes(), example


def test_the_help_of_a_verb_ends_with_them(tmp_path: Path) -> None:
    shown = launch("diff", "--help", folder=tmp_path).stdout
    assert shown.endswith(help_end("launch diff"))
    assert "  launch diff latest\n" in shown
    assert shown.splitlines()[-1] == "exit codes: 0 no difference; 1 some; 2 what you can fix; 130 ctrl-C"
    assert launch("schema", "--help", folder=tmp_path).stdout.endswith(
        "exit codes: 0 done; 2 what you can fix; 130 ctrl-C\n"
    )


def test_the_codes_of_a_training_are_those_of_its_endings() -> None:
    said = {int(code) for code in re.findall(r"(?<!\d)\d+(?= )", _TRAINS)}
    said |= set(range(16, 19))
    # 19 is never final: nodes regroup, and train.
    assert said == {reaction.code for reaction in REACTIONS.values()} - {19}


def test_what_is_not_a_verb_has_no_examples() -> None:
    assert help_end("python -m launcher.cli.rank") == ""
