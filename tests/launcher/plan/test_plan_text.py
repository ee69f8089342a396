"""The plan as people read it."""

import pytest

from launcher.plan.plan import make_plan
from launcher.plan.plan_text import plan_text
from launcher.plan.worlds import planned_ranks
from tests.small_run import small_recipe


def text(*overrides: str) -> str:
    recipe = small_recipe(*overrides)
    return plan_text(recipe, make_plan(recipe, planned_ranks(recipe)))


def line(head: str, *overrides: str) -> str:
    recipe = small_recipe(*overrides)
    text = plan_text(recipe, make_plan(recipe, planned_ranks(recipe)))
    (found,) = [line for line in text.splitlines() if line.startswith(head)]
    return found


@pytest.mark.parametrize(
    ("d_model", "parameters"),
    [
        (16, "parameters 39.88 KiB"),  # 10 208 numbers of 4 bytes
        (1024, "parameters 18.24 MiB"),  # 4 782 080
    ],
)
def test_sizes_are_in_the_largest_unit_of_which_there_is_one(d_model: int, parameters: str) -> None:
    assert parameters in text(f"model.d_model={d_model}")


def test_carried_states_are_told_where_there_are_any() -> None:
    assert "carried" not in text()
    # eight sequences of two layers of 16 channels of 8 numbers of 4 bytes
    assert "carried states 8.00 KiB" in text("train.truncated_bptt=true")


def test_only_what_differs_from_the_defaults_is_shown_unless_all_is_asked_for() -> None:
    recipe = small_recipe("optim.grad_clip=1.0", "parallel.precision=fp32", "checkpoint.keep=7")
    plan = make_plan(recipe, planned_ranks(recipe))
    short, full = plan_text(recipe, plan, full=False), plan_text(recipe, plan)
    for value in ("grad_clip=1.0", "precision=fp32"):
        assert value in full
        assert value not in short
    assert "keep=7" in short
    assert len(short.splitlines()) < len(full.splitlines())
