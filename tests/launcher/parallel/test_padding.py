"""Columns that only products see: a vocabulary is padded in bf16, and nothing that is kept knows of it."""

import pytest
import torch

from launcher.world import World
from tests.launcher.parallel.engines import SINGLE, make_batches, make_engine, recipe_for
from tests.ranks import run_ranks

Kept = tuple[dict[str, torch.Tensor], str, list[float]]


def kept(world: World, precision: str, tied: str) -> Kept:
    """What a checkpoint of the start holds, the hash of its base shapes, and the losses of three steps."""
    recipe = recipe_for(1, *SINGLE, f"parallel.precision={precision}", f"model.tie_embeddings={tied}")
    assert recipe.model.type == "lm"
    assert recipe.model.vocab_size % 64, "else nothing is padded"
    engine, plan = make_engine(recipe, world)
    start = {name: value.clone() for name, value in engine.state().items()}
    batches = make_batches(recipe, plan, world)
    losses = [engine.average(engine.train_step(batches.at(step), 1.0).loss) for step in range(3)]
    return start, plan.parameters.base_shapes_hash, losses


@pytest.mark.parametrize("tied", ["false", "true"])
def test_checkpoints_are_the_same_with_padding_and_without(tied: str) -> None:
    plain, plain_hash, plain_losses = run_ranks(1, kept, "fp32", tied)[0]
    padded, padded_hash, padded_losses = run_ranks(1, kept, "bf16", tied)[0]
    assert plain_hash == padded_hash
    assert plain.keys() == padded.keys()
    for name, value in plain.items():
        assert value.shape == padded[name].shape, name
        assert value.dtype == padded[name].dtype, name
        assert torch.equal(value, padded[name]), name
    # bf16 has 8 bits: losses of about 5.5 agree to a hundredth.
    assert padded_losses == pytest.approx(plain_losses, abs=0.02)
