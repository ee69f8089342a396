"""Risky choices are told, with their place and a remedy, and refused nowhere; shipped recipes have none."""

from pathlib import Path

import pytest

from cluster.local import LocalCluster
from launcher.cli.arguments import show_hints
from launcher.cli.main import main
from launcher.errors import Problem
from launcher.recipe.compile import compile_recipe, load_recipe
from launcher.recipe.hints import find_hints
from launcher.sweep.axes import read_axes
from launcher.sweep.grid import load_points
from tests.small_run import RECIPE, make_run, small_recipe

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
        ((SLOW,), ("dt_max = 0.002", "average over 500 steps", "seq_len = 32", "from 3e-01 to 1")),
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


def test_fast_channels_may_remember_more_than_a_carried_window() -> None:
    assert hints(SLOW, "train.truncated_bptt=true") == []


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the small recipe; a run is submitted nowhere."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalCluster, "submit", lambda self, path: "1")
    return tmp_path


def test_every_verb_that_plans_or_starts_a_training_shows_hints(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["plan", "small.yaml", SLOW],
        ["small.yaml", SLOW, "--dry-run"],
        ["small.yaml", SLOW, "--run-dir", "run"],
        ["resume", "run"],  # what was told at the launch is told again, at its place in the run's recipe
        ["resume", "run", "model.s4d.dt_max=0.001"],
    ):
        assert main(words) == 0
        assert capsys.readouterr().out.count("hint: ") == 1, words


def test_a_hint_on_a_resume_names_the_override_or_the_recipe_of_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(folder / "run", small_recipe(SLOW))
    assert main(["resume", "run", "model.s4d.dt_max=0.001"]) == 0
    assert "hint: override 'model.s4d.dt_max=0.001': " in capsys.readouterr().out
    assert main(["resume", "run"]) == 0
    assert "run/recipe.yaml:" in capsys.readouterr().out.partition("hint: ")[2]


def test_points_of_a_sweep_with_the_same_hint_show_it_once(folder: Path) -> None:
    points = load_points("small.yaml", read_axes(["optim.lr=1e-3,2e-3", SLOW]))
    first, second = (find_hints(point.loaded) for point in points)
    assert len(first) == 1
    assert first == second


def test_a_hint_is_printed_once_however_often_it_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    hint = Problem("x.yaml:1:1", "is risky", "try less")
    show_hints([hint, Problem("x.yaml:2:1", "is risky"), hint])
    assert capsys.readouterr().out == "hint: x.yaml:1:1: is risky\n    try less\nhint: x.yaml:2:1: is risky\n"


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"])
def test_a_secret_in_a_recipe_is_told(name: str) -> None:
    (hint,) = hints(f"cluster.env.{name}=abc")
    assert f"the value of {name} is written into job.sh" in hint
    assert "abc" not in hint.split(": ", 1)[1]


def test_other_variables_are_nobodys_business() -> None:
    assert hints("cluster.env.NCCL_DEBUG=WARN") == []
