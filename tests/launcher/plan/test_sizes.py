"""The recipes of large models: what their names and first lines say is what the plan says."""

import re
from pathlib import Path

import pytest

from launcher.plan.forecast import DEVICES, needs_gib
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import load_recipe

SIZES = {"125m": 125e6, "350m": 350e6, "1b": 1e9, "3b": 3e9, "7b": 7e9}
KINDS = ("s4", "s4d", "ssd", "hybrid", "transformer")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_recipe_has_the_size_of_its_name_and_fits_where_it_says(kind: str, size: str) -> None:
    path = Path(f"recipes/{kind}-lm-{size}.yaml")
    recipe = load_recipe(str(path)).recipe
    plan = make_plan(recipe, planned_ranks(recipe))
    count = plan.parameters.num_parameters
    assert recipe.name == path.stem
    assert count == pytest.approx(SIZES[size], rel=0.05)
    assert plan.total_tokens == pytest.approx(20 * count, rel=0.1)
    text = path.read_text()
    assert f"# {count / 1e6:,.0f} million parameters" in text
    said = re.search(r"Planned on devices of (\d+) GB and more \((\d+) GiB\)", text)
    assert said is not None
    needs = needs_gib(plan.peak)
    assert int(said[1]) == next(name for name, gib in DEVICES.items() if needs <= gib) <= 80
    assert int(said[2]) == round(needs)
