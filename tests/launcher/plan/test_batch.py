"""The batch triangle, in sequences and in pairs of them."""

from pathlib import Path

import pytest

from launcher.plan.batch import shape_batch
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import load_recipe

ROOT = Path(__file__).parents[3]


def test_a_step_is_spread_over_forwards_and_ranks() -> None:
    shape = shape_batch(48, 8, 3, 100)
    assert (shape.micro_batch_size, shape.num_micro, shape.tokens_per_step) == (8, 2, 4800)
    with pytest.raises(ValueError, match="global_batch_size 50 is not a multiple of 3 ranks"):
        shape_batch(50, 8, 3, 100)
    with pytest.raises(ValueError, match="16 sequences per rank are not a multiple of micro_batch_size 6"):
        shape_batch(48, 6, 3, 100)


def test_both_sequences_of_a_pair_are_positions_and_work() -> None:
    """One label of the pair costs two sequences, and the head once."""
    recipe = load_recipe(str(ROOT / "recipes/lra-retrieval.yaml")).recipe
    single = recipe.model.model_copy(update={"num_sequences": 1})
    pairs, alone = (
        make_plan(recipe, planned_ranks(recipe)),
        make_plan(recipe.model_copy(update={"model": single}), planned_ranks(recipe)),
    )
    assert pairs.batch.tokens_per_step == 2 * alone.batch.tokens_per_step == 64 * 2 * 4000
    readout, compare = 2 * 256 * 2, 2 * 4 * 256 * 256
    a_pair = 2 * 4000 * alone.flops_per_token + 3 * (compare - readout)
    assert 2 * 4000 * pairs.flops_per_token == pytest.approx(a_pair, rel=1e-12)
