"""Staged copies hold what was there, sharded alike, in the same memory every time."""

import torch
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh

from launcher.checkpoint.staging import Stager
from launcher.world import World
from tests.ranks import run_ranks


def test_copies_do_not_follow_the_originals_and_reuse_their_memory() -> None:
    stager = Stager(torch.device("cpu"))
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base.t(), "step": torch.tensor(3), "none": torch.empty(0), "b": base.bfloat16()}
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    first = stager.stage(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    for name, tensor in first.items():
        assert torch.equal(tensor, expected[name]), name
    places = {name: tensor.data_ptr() for name, tensor in first.items()}
    second = stager.stage(tensors)
    assert {name: tensor.data_ptr() for name, tensor in second.items()} == places
    assert torch.equal(second["a"], torch.zeros(4, 3))
    # a carried state may have another shape in the next save
    assert stager.stage({"a": torch.ones(2)})["a"].tolist() == [1.0, 1.0]


def stage_sharded(world: World) -> tuple[list[float], list[float], bool]:
    mesh = init_device_mesh("cpu", (world.size,))
    tensor = distribute_tensor(torch.arange(10.0).reshape(5, 2), mesh, [Shard(0)]).requires_grad_()
    stager = Stager(world.device)
    stager.stage({"w": tensor})
    staged = stager.stage({"w": tensor})["w"]
    with torch.no_grad():
        tensor.mul_(0)
    assert isinstance(staged, DTensor)
    same = staged.placements == tensor.placements and staged.device_mesh == mesh
    whole = staged.full_tensor().flatten().tolist()
    return staged.to_local().flatten().tolist(), whole, same and not staged.requires_grad


def test_a_shard_is_copied_and_stays_a_shard() -> None:
    found = run_ranks(2, stage_sharded)
    assert [local for local, _, _ in found] == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0]]
    assert all(whole == list(map(float, range(10))) and same for _, whole, same in found)
