"""Save a checkpoint: all ranks write shards, then rank 0 publishes the manifest, then old ones go."""

from collections.abc import Mapping

import torch

from launcher import files
from launcher.checkpoint.manifest import (
    FORMAT,
    Saved,
    describe_files,
    list_steps,
    publish_manifest,
    read_manifest,
    step_folder,
)
from launcher.checkpoint.storage import write_tensors
from launcher.world import World


def save_checkpoint(
    run_url: str,
    *,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    record: Mapping[str, object],
    world: World,
) -> str:
    """Write one checkpoint and return its URL. `record` is what the manifest keeps besides step and files.

    Nothing older is touched before the new manifest is published.
    """
    url = step_folder(run_url, step)
    if world.is_main:
        _clear_place(run_url, url)
    world.barrier()
    write_tensors(url, tensors)
    world.barrier()
    names = world.from_main(sorted(files.list_names(url)) if world.is_main else [])
    mine = names[world.rank :: world.size]
    described = {
        name: entry for part in world.gather(describe_files(url, mine)) for name, entry in part.items()
    }
    if world.is_main:
        publish_manifest(url, {"format": FORMAT, "step": step, **record, "files": described})
    world.barrier()
    return url


def delete_old(run_url: str, keep: int) -> list[int]:
    """Delete all but the newest `keep` complete checkpoints; returns the steps deleted. Rank 0 only.

    Folders newer than the oldest kept one are never touched, so an unfinished save by others stays.
    """
    complete = [s for s in list_steps(run_url) if isinstance(read_manifest(step_folder(run_url, s)), Saved)]
    if len(complete) <= keep:
        return []
    oldest_kept = complete[-keep]
    old = [step for step in list_steps(run_url) if step < oldest_kept]
    for step in old:
        files.remove(step_folder(run_url, step))
    return old


def quarantine(run_url: str, url: str) -> str:
    """Move a damaged checkpoint out of the way, keeping all of it. Rank 0 only."""
    name = url.rsplit("/", 1)[-1]
    place = files.join(run_url, "quarantine")
    number = sum(other.startswith(name) for other in files.list_names(place)) + 1
    files.make_folder(place)
    target = files.join(place, f"{name}.{number}")
    files.move(url, target)
    return target


def _clear_place(run_url: str, url: str) -> None:
    """Make room for a save: an unfinished one is deleted, a published one (of a rewound run) put aside."""
    if not files.exists(url):
        return
    if isinstance(read_manifest(url), Saved):
        quarantine(run_url, url)
    else:
        files.remove(url)
