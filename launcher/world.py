"""Rank, device and process group of this process. Created once, and passed as an argument."""

import hashlib
import os
import platform
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from launcher.environment import rank_environment
from launcher.errors import Problem, UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One process among `size`; a process started without torchrun is a world of one."""

    rank: int
    local_rank: int
    size: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank does what only one rank should do, such as writing files."""
        return self.rank == 0

    def describe(self) -> dict[str, str]:
        """What the last digits of every number depend on, besides the recipe and the number of ranks."""
        gpu = self.device.type == "cuda"
        return {
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "device": torch.cuda.get_device_name(self.device) if gpu else platform.machine(),
            "threads": str(torch.get_num_threads()),
        }

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def from_main(self, value: T) -> T:
        """Rank 0's value (small, picklable) on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value (small, picklable), in rank order, on every rank."""
        if self.size == 1:
            return [value]
        box: list[T] = [value] * self.size
        dist.all_gather_object(box, value)
        return box


def close_world(world: World) -> None:
    """Leave the process group."""
    if world.size > 1:
        dist.destroy_process_group()


def open_world(timeout_s: float) -> World:
    """Join the process group of torchrun's variables, and select the device of this local rank."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed reads it even for a single process
    use_cuda = torch.cuda.is_available()
    for name, value in rank_environment(use_cuda=use_cuda).items():
        os.environ.setdefault(name, value)
    if use_cuda and local_rank >= (count := torch.cuda.device_count()):
        raise UserError(
            Problem.at(
                "cluster.nproc_per_node",
                f"rank {rank} needs GPU {local_rank} of this machine, which has {count}",
                f"start at most {count} processes on a node, one for each GPU",
            )
        )
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    if size > 1:
        # gloo as well, for what is on the CPU: pickled objects, and parameters that are offloaded.
        backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
        dist.init_process_group(
            backend, timeout=timedelta(seconds=timeout_s), device_id=device if use_cuda else None
        )
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return World(rank=rank, local_rank=local_rank, size=size, local_size=local_size, device=device)


def join_local_world(rank: int, size: int, rendezvous: Path, timeout_s: float) -> World:
    """Join `size` processes on the CPU of this machine through a file: no ports, no torchrun."""
    # torchrun's variables: DeepSpeed reads them, not the process group.
    for name, value in {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
    }.items():
        os.environ[name] = str(value)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    return World(rank=rank, local_rank=rank, size=size, local_size=size, device=torch.device("cpu"))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one rank: a resume draws the same dropout masks as an uninterrupted run."""
    # Hashed, because sums would collide: seed + step gives (1, 2) and (2, 1) the same masks. Shifted to 63
    # bits, which manual_seed takes as a non-negative number.
    digest = hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8]) >> 1)
