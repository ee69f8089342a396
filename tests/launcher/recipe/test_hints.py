"""Risky choices are told, with their place and a remedy, and refused nowhere; shipped recipes have none."""

from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.recipe.compile import compile_recipe, load_recipe
from launcher.recipe.hints import find_hints
from tests.small_run import RECIPE

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
SLOW = "model.s4d={d_state: 8, dt_min: 0.001, dt_max: 0.002}"


def hints(*overrides: str) -> list[str]:
    return [str(hint) for hint in find_hints(compile_recipe(RECIPE, "small.yaml", overrides))]


def test_the_small_recipe_is_told_nothing() -> None:
    assert hints() == []


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (("data.seq_len=16384",), ("dt_min = 0.001", "about 1e+03 steps", "seq_len = 16384", "near 6e-05")),
        ((SLOW,), ("dt_max = 0.002", "averaging over 500 steps", "seq_len = 32", "from 3e-01 to 1")),
        (
            ("data.seq_len=16384", "model.s4d={init: lin, dt_min: 1e-4}"),
            ("model.s4d.init = lin (override", "Path-X", "legs or inv"),
        ),
        (
            ("model.pattern=[dss]", "model.dss={version: softmax, max_length: 64}"),
            ("model.dss.max_length = 64", "seq_len = 32", "use 32"),
        ),
    ],
)
def test_a_risky_choice_is_told_once(overrides: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    found = hints(*overrides)
    assert len(found) == 1
    for fragment in fragments:
        assert fragment in found[0]


def test_only_layers_of_the_pattern_matter() -> None:
    assert hints(SLOW, "model.pattern=[dss]") == []


def test_batch_norm_over_a_part_of_the_batch_is_told() -> None:
    text = RECIPE.replace("type: lm\n", "type: classifier\n  num_classes: 10\n  encoder: {type: token}\n")
    text = text.replace("{type: python-stdlib}", "{type: listops, min_length: 8}")
    parts, whole = (
        find_hints(compile_recipe(text, "x.yaml", ("model.norm=batch", f"train.micro_batch_size={size}")))
        for size in (4, 8)
    )
    assert whole == []
    assert "the 4 sequences of one forward" in parts[0].message


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_shipped_recipe_is_risky(path: Path) -> None:
    assert find_hints(load_recipe(str(path))) == []


def test_the_plan_shows_hints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    assert main(["plan", str(tmp_path / "small.yaml"), SLOW]) == 0
    assert "hint: override" in capsys.readouterr().out
