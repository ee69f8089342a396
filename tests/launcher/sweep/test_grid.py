"""The grid of a sweep."""

from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.sweep.axes import Axis, read_axes, split_values
from launcher.sweep.grid import load_points, point_name

SMALL = Path(__file__).parents[1] / "recipe" / "small.yaml"


def test_values_are_split_outside_of_brackets_and_quotes_only() -> None:
    assert split_values("1e-3, 2e-3") == ("1e-3", "2e-3")
    assert split_values("[s4d,ffn],[s4d]") == ("[s4d,ffn]", "[s4d]")
    assert split_values("{type: mup, base_width: 32},{type: sp}") == (
        "{type: mup, base_width: 32}",
        "{type: sp}",
    )
    assert split_values("'a,b',c") == ("'a,b'", "c")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr", "is not key=value,value"),
        ("optim.lr=1e-3,", "is not key=value,value"),
        ("optim.lr=1e-3,1e-3", "has a value twice"),
        ("cluster.nodes=1,2", "is not for a sweep"),
        ("parallel.strategy=ddp,fsdp2", "is not for a sweep"),
    ],
)
def test_a_wrong_axis_is_named(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_axes([word])


def test_the_first_axis_changes_slowest() -> None:
    points = load_points(str(SMALL), read_axes(["seed=1,2", "optim.lr=1e-3,2e-3", "train.steps=70"]))
    assert [(p.recipe.seed, p.recipe.optim.lr) for p in points] == [
        (1, 1e-3),
        (1, 2e-3),
        (2, 1e-3),
        (2, 2e-3),
    ]
    assert [p.name for p in points][:2] == ["seed=1,lr=1e-3", "seed=1,lr=2e-3"]
    assert {p.recipe.train.steps for p in points} == {70}


def test_every_point_is_trained_by_one_process_whatever_the_recipe_says() -> None:
    (point,) = load_points(str(SMALL), [Axis("seed", ("1",))])
    assert point.recipe.parallel.strategy == "single"
    assert (point.recipe.cluster.nodes, point.recipe.cluster.nproc_per_node) == (1, 1)


def test_optimizers_are_compared_without_what_is_said_for_another_one() -> None:
    axes = read_axes(["optim.type=adamw,sgd,lion"])
    points = load_points("recipes/s4d-lm-tiny.yaml", axes)
    assert [point.recipe.optim.type for point in points] == ["adamw", "sgd", "lion"]
    kept = [point.recipe.optim.model_dump().get("betas") for point in points]
    assert kept[0] == kept[2] == (0.9, 0.95)
    assert kept[1] is None


def test_a_key_is_dropped_at_every_point() -> None:
    points = load_points("recipes/s4d-lm-tiny.yaml", read_axes(["seed=1,2"]), ["~optim.weight_decay"])
    assert "~optim.weight_decay" in points[0].loaded.source.overrides
    assert [point.name for point in points] == ["seed=1", "seed=2"]


def test_all_points_are_checked_before_any_is_trained() -> None:
    with pytest.raises(UserError) as caught:
        load_points(str(SMALL), read_axes(["model.d_model=32,wide", "train.steps=5,100"]))
    text = str(caught.value)
    assert "wide" in text
    assert "train.steps = 5" in text  # the warmup of ten steps does not end before it


def test_names_of_different_settings_differ_and_are_safe_in_a_path() -> None:
    settings = [
        (("mup", "{type: mup, base_width: 32}"),),
        (("mup", "{type: mup, base_width: 64}"),),
        (("mup", "{type: sp}"),),
        (("a.lr", "1"), ("b.lr", "2")),
        (("c.lr", "1"), ("d.lr", "2")),
        (("data.source.url", "../x"),),
        (("data.source.url", "..x"),),
    ]
    names = [point_name(one) for one in settings]
    assert len(set(names)) == len(names)
    assert not any("/" in name or name.startswith(".") for name in names)
    assert names[0].startswith("mup=mup-")
