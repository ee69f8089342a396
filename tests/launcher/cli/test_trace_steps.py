"""`launch trace` records a few steps of a recipe or run, and nothing else that the recipe asks for."""

from pathlib import Path

from launcher.json_text import load_json
from tests.launch import assert_one_screen, launch
from tests.small_run import RECIPE, train_run


def test_a_recipe_s_steps_are_traced_on_all_its_ranks(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = (
        "train.validate_every=2",
        "track.mlflow.enabled=true",
        "track.tensorboard=tb",
        "parallel.strategy=ddp",
    )
    done = launch("trace", "small.yaml", *words, "--steps", "2", "--nproc-per-node", "2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "traced steps 4 to 5" in done.stdout
    assert "communication, alone" in done.stdout
    (run,) = (tmp_path / "runs").iterdir()
    assert "-trace-" in run.name
    assert len(list(run.glob("traces/*.json.gz"))) == 2
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "tb").exists()


def test_a_run_is_traced_as_it_was_trained(tmp_path: Path) -> None:
    train_run(tmp_path / "runs/one", "model.d_model=24")
    done = launch("trace", "one", "--steps", "1", "--run-dir", "seen", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = load_json((tmp_path / "seen/plan.json").read_bytes())
    assert (
        plan["num_parameters"] == load_json((tmp_path / "runs/one/plan.json").read_bytes())["num_parameters"]
    )


def test_no_steps_are_refused(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    assert_one_screen(
        launch("trace", "small.yaml", "--steps", "0", folder=tmp_path), "is not a positive number"
    )
