"""Rank, device and process group of this process. Created once, and passed as an argument."""

import hashlib
import json
import os
import platform
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch._C._distributed_c10d import FileStore, Store
from torch.distributed.rendezvous import rendezvous

from launcher.environment import STORE_FILE, rank_environment
from launcher.errors import Problem, UserError
from launcher.signed_store import SignedStore

T = TypeVar("T")
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One process among `size`; a process started without torchrun is a world of one."""

    rank: int
    local_rank: int
    size: int
    local_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    """Of the methods below; None is the default group."""
    store: Store | None = None
    """Where the ranks found each other: kept for as long as the group lives."""

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
            dist.barrier(self.group)

    def beside(self) -> "World":
        """The same ranks with a process group of their own, for one other thread. All ranks call it."""
        if self.size == 1:
            return self
        return replace(self, group=dist.new_group(backend="gloo"))

    # As JSON of a known type: torch's own collectives of objects unpickle, that is run, what a peer sends.

    def from_main(self, value: T, kind: TypeAdapter[T]) -> T:
        """Rank 0's value (small) on every rank."""
        if self.size == 1:
            return value
        text = _encode(value, kind) if self.is_main else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(text)])
        dist.broadcast(size, src=0, group=self.group)
        if not self.is_main:
            text = _room(int(size))
        dist.broadcast(text, src=0, group=self.group)
        return value if self.is_main else _decode(text, kind)

    def gather(self, value: T, kind: TypeAdapter[T]) -> list[T]:
        """Every rank's value (small), in rank order, on every rank."""
        if self.size == 1:
            return [value]
        text = _encode(value, kind)
        sizes = list(torch.zeros(self.size, 1, dtype=torch.int64))
        dist.all_gather(sizes, torch.tensor([len(text)]), group=self.group)
        padded = _room(max(map(int, sizes)))
        padded[: len(text)] = text
        texts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(texts, padded, group=self.group)
        return [_decode(text[: int(size)], kind) for text, size in zip(texts, sizes, strict=True)]


def _encode(value: T, kind: TypeAdapter[T]) -> torch.Tensor:
    text = json.dumps(kind.dump_python(value, mode="json"))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _decode(text: torch.Tensor, kind: TypeAdapter[T]) -> T:
    return kind.validate_python(json.loads(text.numpy().tobytes()))


def _room(size: int) -> torch.Tensor:
    if not 0 <= size <= _MOST_BYTES:
        raise RuntimeError(f"a peer announces a message of {size} bytes; the most is {_MOST_BYTES}")
    return torch.zeros(size, dtype=torch.uint8)


def close_world(world: World) -> None:
    """Leave the process group."""
    if world.size > 1:
        dist.destroy_process_group()


def open_world(timeout_s: float, secret: bytes | None = None) -> World:
    """Join the process group of torchrun's variables, and select the device of this local rank.

    `secret`: what the ranks of several nodes sign the addresses with at which they find each other.
    """
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
    store: Store | None = None
    if size > 1:
        # gloo as well, for what is on the CPU: pickled objects, and parameters that are offloaded.
        backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
        timeout = timedelta(seconds=timeout_s)
        # NCCL's threads would call into Python, which was not tried: see docs/security.md.
        store = _own_store(rank, size, timeout, None if use_cuda else secret)
        place: dict[str, Any] = {} if store is None else {"store": store, "rank": rank, "world_size": size}
        dist.init_process_group(backend, timeout=timeout, device_id=device if use_cuda else None, **place)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return World(
        rank=rank, local_rank=local_rank, size=size, local_size=local_size, device=device, store=store
    )


def _own_store(rank: int, size: int, timeout: timedelta, secret: bytes | None) -> Store | None:
    """Where ranks find each other, if not simply in torchrun's store."""
    if path := os.environ.get(STORE_FILE):
        store = FileStore(path, size)
        store.set_timeout(timeout)
        return store
    if secret is None:
        return None
    shared, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
    return SignedStore(shared, secret)


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


def world_on(device: str) -> World:
    """This process alone, on a device. Raises UserError where there is no such device."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        remedy = "leave it out: the CPU is the default"
        raise UserError(Problem(f"--device {device}", "torch finds no GPU here", remedy))
    return World(rank=0, local_rank=0, size=1, local_size=1, device=torch.device(device))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one rank: a resume draws the same dropout masks as an uninterrupted run."""
    # Hashed, because sums would collide: seed + step gives (1, 2) and (2, 1) the same masks. Shifted to 63
    # bits, which manual_seed takes as a non-negative number.
    digest = hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8]) >> 1)
