import math
from pathlib import Path

from launcher.track.journal import Journal
from launcher.track.points import flatten_params, line_points, superseded_points, without_unused_layers
from tests.small_run import small_recipe


def test_a_step_line_becomes_one_point_for_every_number() -> None:
    line = {
        "event": "step", "time": 1700000000.25, "attempt": 2, "step": 20,
        "loss": 2.5, "lr_group": {"ssm: dt": 1e-4}, "grad_norm": math.nan, "tokens": 81920, 
        "good": True, "why": "x",
    }  # fmt: skip
    points = line_points(line)
    assert {point.key for point in points} == {"loss", "lr_group/ssm_ dt", "grad_norm", "tokens"}
    assert {(point.step, point.time_ms) for point in points} == {(20, 1700000000250)}


def test_other_lines_name_their_event_and_lines_without_a_step_are_not_points() -> None:
    line = {
        "event": "validation",
        "time": 1.0,
        "attempt": 1,
        "step": 20,
        "accuracy": 0.5,
        "baselines": {"guess": 0.1},
    }
    points = [(point.key, point.value) for point in line_points(line)]
    assert points == [("validation_accuracy", 0.5), ("validation_baselines/guess", 0.1)]
    assert line_points({"event": "start", "time": 1.0, "attempt": 1, "from_step": 20, "world_size": 2}) == []


def test_parts_of_a_mixture_stand_beside_the_whole() -> None:
    line = {
        "event": "validation",
        "time": 1.0,
        "step": 20,
        "loss": 2.0,
        "loss_by_part": {"wiki": 1.5},
        "bits_per_byte_by_part": {"wiki": 0.5},
    }
    points = [(point.key, point.value) for point in line_points(line)]
    assert points == [
        ("validation_loss", 2.0),
        ("validation_loss/wiki", 1.5),
        ("validation_bits_per_byte/wiki", 0.5),
    ]


def test_superseded_points_are_those_after_the_step_gone_back_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", attempt=1)
    journal.write("start", {"from_step": 0})
    for step in (10, 20, 30):
        journal.write("step", {"step": step, "loss": float(step)})
    before = journal.path.stat().st_size
    journal.write("start", {"from_step": 10})
    journal.write("step", {"step": 20, "loss": 7.0})
    journal.close()
    assert superseded_points(journal.path, before) == {}
    end = journal.path.stat().st_size
    assert superseded_points(journal.path, end) == {("loss", 20): 20.0, ("loss", 30): 30.0}


def test_a_recipe_is_flattened_to_strings() -> None:
    recipe = {"seed": 1, "name": "a b", "optim": {"lr": 4e-3, "betas": [0.9, 0.95], "ssm": {"dt": None}}}
    assert flatten_params(recipe) == {
        "seed": "1", "name": "a b", "optim.lr": "0.004", "optim.betas": "[0.9, 0.95]", "optim.ssm.dt": "null",
    }  # fmt: skip


def test_sections_of_layers_that_a_model_lacks_are_left_out() -> None:
    recipe = small_recipe("model.pattern=[s4d, ffn]").model_dump(mode="json")
    found = flatten_params(without_unused_layers(recipe))
    kinds = {key.split(".")[1] for key in found if key.startswith("model.") and key.count(".") > 1}
    assert {"s4d", "ffn"} <= kinds
    assert not kinds & {"s4", "dss", "ssd", "attention", "momentum"}
    assert without_unused_layers({"seed": 1}) == {"seed": 1}
