"""`launch sweep --best`: the large recipe, with the values tuned on small ones and where they come from."""

import math
from pathlib import Path

import pytest

from launcher.check.gate import check_record, default_folder, hash_identity, write_record  # noqa: F401
from launcher.cli.main import main
from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe, load_recipe
from launcher.sweep.axes import read_axes
from launcher.sweep.best import best_recipe, compared_keys
from launcher.sweep.grid import SweepPoint, load_points
from launcher.sweep.results import PointResult
from tests.launcher.sweep.test_run_sweep import FAST, SMALL, sweep  # noqa: F401

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
AXES = ["optim.lr=1e-3,2e-3,4e-3,8e-3", "model.d_model=32,64", "seed=1,2"]


def points(*axes: str) -> tuple[SweepPoint, ...]:
    return load_points(str(SMALL), read_axes(axes or AXES))


def result(point: SweepPoint, loss: float, status: str = "finished") -> PointResult:
    return PointResult(
        name=point.name,
        settings=dict(point.settings),
        series="",
        status=status,  # type: ignore[arg-type]
        d_model=point.recipe.model.d_model,
        lr=point.recipe.optim.lr,
        seed=point.recipe.seed,
        loss=loss,
        validation=True,
        seconds=1.0,
    )


def bowl(point: SweepPoint, best: float = 3e-3) -> float:
    """A parabola over log2 of the rate; another seed is a little off, the narrow model far off."""
    centre = math.log2(best if point.recipe.model.d_model == 64 else 1e-3) + 0.1 * point.recipe.seed
    return 2.0 + (math.log2(point.recipe.optim.lr) - centre) ** 2


def test_the_best_value_is_that_of_the_widest_by_the_mean_over_seeds(tmp_path: Path) -> None:
    found = points()
    best = best_recipe(
        str(SMALL), [], compared_keys(found), found, [result(p, bowl(p)) for p in found], tmp_path
    )
    recipe = compile_recipe(best.text, "large.yaml").recipe
    small = load_recipe(str(SMALL)).recipe
    assert recipe.optim.lr == 4e-3
    assert recipe.model.d_model == small.model.d_model, "the recipe keeps its own width and seed"
    assert recipe.seed == small.seed
    provenance = recipe.provenance
    assert provenance is not None
    assert provenance.values == {"optim.lr": 4e-3}
    assert (provenance.d_model, provenance.points, provenance.seeds) == (64, 4, 2)
    assert provenance.optimum_log2_lr == pytest.approx(math.log2(3e-3) + 0.15, abs=1e-6)
    assert provenance.optimum_half_width is not None
    assert provenance.optimum_half_width > 0
    assert not best.remarks


def test_an_optimum_at_the_edge_of_the_grid_is_said(tmp_path: Path) -> None:
    found = points()
    best = best_recipe(
        str(SMALL), [], compared_keys(found), found, [result(p, bowl(p, 1e-2)) for p in found], tmp_path
    )
    assert best.remarks == ["optim.lr = 8e-3 is the largest value that was tried: better ones may be outside"]


def test_a_value_at_which_a_seed_diverges_is_not_the_best(tmp_path: Path) -> None:
    found = points()
    results = [
        result(p, math.inf, "diverged")
        if p.recipe.optim.lr == 4e-3 and p.recipe.seed == 2
        else result(p, bowl(p))
        for p in found
    ]
    assert (
        compile_recipe(
            best_recipe(str(SMALL), [], compared_keys(found), found, results, tmp_path).text, "x"
        ).recipe.optim.lr
        == 2e-3
    )


def test_values_of_several_keys_are_tuned_together(tmp_path: Path) -> None:
    found = points("optim.lr=1e-3,2e-3", "optim.weight_decay=0.0,0.1", "model.d_model=32,64")
    results = [result(p, 1.0 if (p.recipe.optim.lr, p.recipe.optim.weight_decay) == (2e-3, 0.1) else 2.0)
               for p in found]  # fmt: skip
    recipe = compile_recipe(
        best_recipe(str(SMALL), [], compared_keys(found), found, results, tmp_path).text, "x"
    ).recipe
    assert recipe.provenance is not None
    assert recipe.provenance.values == {"optim.lr": 2e-3, "optim.weight_decay": 0.1}


def test_missing_points_and_values_that_do_not_carry_over_are_refused(tmp_path: Path) -> None:
    found = points()
    with pytest.raises(UserError, match="1 of 16 points have no result, such as"):
        best_recipe(
            str(SMALL), [], compared_keys(found), found, [result(p, 1.0) for p in found[1:]], tmp_path
        )
    none = points("model.d_model=32,64")
    with pytest.raises(UserError, match="no value was compared"):
        best_recipe(str(SMALL), [], compared_keys(none), none, [result(p, 1.0) for p in none], tmp_path)
    flat = tmp_path / "flat.yaml"
    text = SMALL.read_text()
    start = text.index("mup:")
    flat.write_text(text[:start] + "mup: {type: sp}\n" + text[start:].partition("\n")[2])
    standard = load_points(str(flat), read_axes(["optim.lr=1e-3,2e-3", "model.d_model=64"]))
    with pytest.raises(UserError, match=r"at width 64 are not those of width \d+ under mup.type sp"):
        best_recipe(
            str(flat), [], compared_keys(standard), standard, [result(p, 1.0) for p in standard], tmp_path
        )


def test_a_recipe_that_demands_tuned_values_keeps_them(tmp_path: Path) -> None:
    found = points()
    text = best_recipe(
        str(SMALL), [], compared_keys(found), found, [result(p, bowl(p)) for p in found], tmp_path
    ).text
    assert compile_recipe(text, "large.yaml", ("check.tuned=true",)).recipe.check.tuned
    with pytest.raises(
        UserError, match=r"optim\.lr is 0\.003, and 0\.004 was tuned \[tuned-values-are-kept\]"
    ):
        compile_recipe(text, "large.yaml", ("check.tuned=true", "optim.lr=0.003"))
    assert compile_recipe(text, "large.yaml", ("optim.lr=0.003",)).recipe.optim.lr == 0.003


def test_the_command_prints_a_recipe_that_plans_and_names_its_origin(
    sweep: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    axes = ["data.seq_len=16", "optim.lr=1e-3,1e-2,1e-1"]
    assert main([*sweep, *axes, "--best"]) == 2
    assert "3 of 3 points have no result" in capsys.readouterr().err
    assert main([*sweep, *axes]) == 0
    capsys.readouterr()
    assert main([*sweep, *axes, "--best"]) == 0
    shown = capsys.readouterr()
    (tmp_path / "large.yaml").write_text(shown.out)
    assert main(["plan", "large.yaml"]) == 0
    planned = capsys.readouterr().out
    width = load_recipe(str(SMALL)).recipe.model.d_model
    assert f"at width {width}, best of 3 by loss " in planned
    assert "no passed check is recorded" in planned
