"""How a rank binds its device and joins the others, as far as that can be seen without a GPU."""

import os
from typing import Any

import pytest
import torch
import torch.distributed as dist

from launcher.environment import rank_environment
from launcher.errors import UserError
from launcher.world import open_world

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What init_process_group and set_device were called with, in the environment of a rank of torchrun."""
    calls: dict[str, Any] = {}
    for name in (*TORCHRUN, *rank_environment(use_cuda=True)):
        monkeypatch.setenv(name, "restored after the test")
        monkeypatch.delenv(name)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)

    def init(backend: str, **options: object) -> None:
        calls.update(backend=backend, **options)

    monkeypatch.setattr(dist, "init_process_group", init)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.update(bound=device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    return calls


def test_a_gpu_rank_binds_the_device_of_its_local_rank_before_it_joins(
    joined: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    world = open_world(timeout_s=90.0)
    assert (world.rank, world.local_rank, world.size, world.local_size) == (5, 1, 8, 4)
    assert world.device == torch.device("cuda", 1)
    assert list(joined)[0] == "bound"
    assert joined["bound"] == joined["device_id"] == world.device
    # gloo beside nccl: checkpoints and small objects travel from host memory
    assert joined["backend"] == "cpu:gloo,cuda:nccl"
    assert joined["timeout"].total_seconds() == 90.0
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "1"
    assert os.environ["DS_ACCELERATOR"] == "cuda"


def test_more_processes_than_gpus_is_said_before_anything_is_joined(
    joined: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="rank 5 needs GPU 1 of this machine, which has 1"):
        open_world(timeout_s=90.0)
    assert joined == {}


def test_a_cpu_rank_joins_through_gloo(joined: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    world = open_world(timeout_s=90.0)
    assert world.device == torch.device("cpu")
    assert joined["backend"] == "gloo"
    assert "bound" not in joined
    assert "TORCH_NCCL_ASYNC_ERROR_HANDLING" not in os.environ


def test_what_the_user_has_set_stays(joined: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:128")
    open_world(timeout_s=90.0)
    assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:128"


def test_a_process_alone_joins_nothing(joined: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in TORCHRUN:
        monkeypatch.delenv(name)
    assert open_world(timeout_s=90.0).size == 1
    assert joined == {}
