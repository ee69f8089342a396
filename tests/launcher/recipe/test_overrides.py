"""`~section.key` drops what a recipe gives."""

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
from tests.small_run import RECIPE


def test_a_key_is_dropped_and_its_default_counts() -> None:
    recipe = RECIPE.replace("lr: 8e-3,", "lr: 8e-3, betas: [0.5, 0.6],")
    assert compile_recipe(recipe, "r.yaml").recipe.optim.betas == (0.5, 0.6)
    assert compile_recipe(recipe, "r.yaml", ["~optim.betas"]).recipe.optim.betas != (0.5, 0.6)


def test_an_optimizer_is_replaced_by_one_that_lacks_its_keys() -> None:
    recipe = RECIPE.replace("lr: 8e-3,", "lr: 8e-3, betas: [0.5, 0.6],")
    with pytest.raises(UserError, match="~optim.betas as an override drops it"):
        compile_recipe(recipe, "r.yaml", ["optim.type=sgd"])
    assert compile_recipe(recipe, "r.yaml", ["optim.type=sgd", "~optim.betas"]).recipe.optim.type == "sgd"


def test_what_is_dropped_may_be_given_again() -> None:
    recipe = compile_recipe(RECIPE, "r.yaml", ["~schedule", "schedule={type: constant}"]).recipe
    assert recipe.schedule.type == "constant"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~optim.betaz", "the recipe does not give optim.betaz"),
        ("~optim.grad_clp", "did you mean grad_clip"),
        ("~model.pattern.0", "does not give model.pattern.0"),
        ("~optim", "optim is missing"),
        ("~", "the recipe does not give"),
    ],
)
def test_what_is_not_written_cannot_be_dropped(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_recipe(RECIPE, "r.yaml", [override])


def test_an_item_of_a_default_list_is_replaced() -> None:
    recipe = compile_recipe(RECIPE, "r.yaml", ["optim.betas.0=0.8"]).recipe
    assert recipe.optim.model_dump()["betas"] == (0.8, 0.95)
    both = compile_recipe(RECIPE, "r.yaml", ["optim.betas.0=0.8", "optim.betas.1=0.9"]).recipe
    assert both.optim.model_dump()["betas"] == (0.8, 0.9)


@pytest.mark.parametrize("override", ["optim.betas.2=0.9", "optim.betas.x=0.9", "optim.betas.0=2"])
def test_an_item_that_a_default_list_does_not_have_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="optim.betas"):
        compile_recipe(RECIPE, "r.yaml", [override])
