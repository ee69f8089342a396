"""Base shapes: which dimensions grow, by how much, and what is refused."""

import pytest

from launcher.errors import UserError
from launcher.mup.base_shapes import (
    WidthMultiplier,
    compare_shapes,
    find_base_shapes,
    hash_shapes,
    measure_width_multipliers,
)

BASE = {"embedding.weight": (256, 64), "up.weight": (256, 64), "up.bias": (256,), "dt": (64,), "gate": (1,)}
DELTA = {
    "embedding.weight": (256, 128),
    "up.weight": (512, 128),
    "up.bias": (512,),
    "dt": (128,),
    "gate": (1,),
}
SHAPES = {
    "embedding.weight": (None, 64),
    "up.weight": (256, 64),
    "up.bias": (256,),
    "dt": (64,),
    "gate": (None,),
}


def test_a_dimension_is_infinite_where_base_and_delta_differ() -> None:
    assert find_base_shapes(BASE, DELTA) == SHAPES


def test_parameters_of_only_one_model_are_named() -> None:
    delta = {**DELTA, "layers.4.bias": (8,)}
    del delta["dt"]
    with pytest.raises(UserError) as error:
        find_base_shapes(BASE, delta)
    assert [problem.place for problem in error.value.problems] == ["dt", "layers.4.bias"]


def test_a_parameter_of_another_rank_is_named() -> None:
    with pytest.raises(UserError, match="dt: is 1-dimensional"):
        find_base_shapes(BASE, {**DELTA, "dt": (128, 2)})


def test_widths_are_ratios_to_the_base() -> None:
    target = {"embedding.weight": (256, 192), "up.weight": (1024, 192), "up.bias": (1024,), "dt": (96,)}
    widths = measure_width_multipliers({**target, "gate": (1,)}, SHAPES)
    assert widths["embedding.weight"] == WidthMultiplier(fan_in=3.0, fan_out=3.0, num_infinite=1)
    assert widths["up.weight"] == WidthMultiplier(fan_in=3.0, fan_out=4.0, num_infinite=2)
    assert widths["dt"] == WidthMultiplier(fan_in=1.5, fan_out=1.5, num_infinite=1)
    assert widths["gate"] == WidthMultiplier(fan_in=1.0, fan_out=1.0, num_infinite=0)


def test_all_widths_are_one_at_the_base() -> None:
    assert {(w.fan_in, w.fan_out) for w in measure_width_multipliers(BASE, SHAPES).values()} == {(1.0, 1.0)}


def test_a_weight_stored_as_in_out_says_which_dimension_is_fan_in() -> None:
    """mup reads ConvTranspose's and (in, out) weights with the wrong fan-in; here facts say it."""
    shapes, base = {"up": (128, 1024, 3)}, {"up": (64, 256, None)}
    assert measure_width_multipliers(shapes, base)["up"] == WidthMultiplier(
        fan_in=4.0, fan_out=2.0, num_infinite=2
    )
    assert measure_width_multipliers(shapes, base, fan_in_dims={"up": 0})["up"] == WidthMultiplier(
        fan_in=2.0, fan_out=4.0, num_infinite=2
    )


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        ({"a": (4,)}, ["b"]),
        ({"a": (4,), "b": (4,), "layers.9.c": (1,)}, ["layers.9.c"]),
        ({"a": (4,), "b": (4, 4)}, ["b"]),
    ],
)
def test_base_shapes_of_another_model_name_the_parameters(
    shapes: dict[str, tuple[int, ...]], names: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        measure_width_multipliers(shapes, {"a": (2,), "b": (None,)})
    assert [problem.place for problem in error.value.problems] == names


def test_hash_depends_on_content_not_on_order() -> None:
    assert hash_shapes(SHAPES) == hash_shapes(dict(reversed(SHAPES.items())))
    assert hash_shapes(SHAPES) != hash_shapes({**SHAPES, "dt": (32,)})
    assert hash_shapes(SHAPES) != hash_shapes({**SHAPES, "gate": ()})


def test_differences_name_parameters_and_both_values() -> None:
    saved = {**SHAPES, "up.bias": (128,), "old": (None,)}
    assert compare_shapes(saved, {**SHAPES, "new": (4,)}) == [
        "new: not in the checkpoint, (4) in the recipe",
        "old: (finite) in the checkpoint, not in the recipe",
        "up.bias: (128) in the checkpoint, (256) in the recipe",
    ]
    assert compare_shapes(saved, SHAPES, most=1)[1:] == ["... and 1 more"]
    assert compare_shapes(SHAPES, SHAPES) == []
