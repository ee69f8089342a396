"""A Checkpointer without a training run."""

import torch

from launcher.checkpoint.checkpointer import Checkpointer
from launcher.plan.plan import make_plan
from launcher.progress import Progress
from launcher.run_folder import open_mirror
from launcher.world import World, world_on
from tests.small_run import small_recipe

ALONE = world_on("cpu")


def open_saver(
    run_url: str,
    world: World = ALONE,
    *,
    keep: int = 100,
    keep_every: int | None = None,
    max_failures: int = 3,
) -> Checkpointer:
    """The checkpointer of an attempt of the small recipe."""
    section = f"checkpoint={{every: 1, keep: {keep}, max_failures: {max_failures}, keep_every: "
    section += "null}" if keep_every is None else f"{keep_every}}}"
    shape = (f"cluster.nproc_per_node={world.size}", f"train.global_batch_size={world.size}")
    recipe = small_recipe(*shape, "parallel.strategy=ddp", section)
    return Checkpointer(
        recipe,
        make_plan(recipe, world.size),
        fingerprint="data",
        attempt=1,
        run_url=run_url,
        mirror=open_mirror(run_url, is_main=False),
        world=world,
    )


def save(
    run_url: str, step: int, tensors: dict[str, torch.Tensor], world: World = ALONE, loss: float | None = None
) -> str:
    """Save tensors as the checkpoint of a step; all ranks together."""
    saver = open_saver(run_url, world)
    saver.save(Progress(step, step), tensors, {} if loss is None else {"validation_loss": loss}, wait=True)
    assert saver.newest_url is not None
    return saver.newest_url
