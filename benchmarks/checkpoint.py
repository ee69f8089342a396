"""What a checkpoint costs: how long training stands still, how fast it is written and read.

    python benchmarks/checkpoint.py [--gib 1] [--folder /tmp]

One process, a state of float32 tensors of 16 MiB on a local disk. The copy in memory, which is all that
training waits for, over the whole save; the save over raw writes of the same bytes with one fsync; hashing
and restoring over raw reads. All in one run, three times each, the medians.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from launcher.checkpoint.catalog import Saved, read_checkpoint, step_folder, verify_digests
from launcher.checkpoint.checkpointer import Checkpointer
from launcher.checkpoint.storage import read_tensors
from launcher.plan.plan import make_plan
from launcher.progress import Progress
from launcher.recipe.compile import load_recipe
from launcher.run_folder import open_mirror
from launcher.table import table_lines
from launcher.world import world_on

QUICKSTART = Path(__file__).parents[1] / "recipes" / "s4d-lm-quickstart.yaml"
WORLD = world_on("cpu")
TENSOR_BYTES = 1 << 24
TIMES = 3


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def write_raw(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The same bytes, and nothing else."""
    with open(path, "wb") as stream:
        for tensor in tensors.values():
            stream.write(tensor.numpy().data)
        stream.flush()
        os.fsync(stream.fileno())


def read_raw(path: Path) -> None:
    """Read a file in pieces of 4 MiB."""
    with open(path, "rb") as stream:
        while stream.read(1 << 22):
            pass


def measure(gib: float, folder: Path) -> dict[str, float]:
    """Median seconds of each part."""
    tensors = {
        f"model/{number}": torch.rand(TENSOR_BYTES // 4)
        for number in range(max(1, round(gib * (1 << 30) / TENSOR_BYTES)))
    }
    shape = ["cluster.nproc_per_node=1", "parallel={engine: torch, strategy: single}", "checkpoint.keep=99"]
    recipe = load_recipe(str(QUICKSTART), shape).recipe
    run = str(folder / "run")
    saver = Checkpointer(
        recipe,
        make_plan(recipe, 1),
        fingerprint="",
        attempt=1,
        run_url=run,
        mirror=open_mirror(run, is_main=False),
        world=WORLD,
    )
    seconds: dict[str, list[float]] = {}
    for step in range(TIMES + 2):  # the first ones fill the staging memory, and touch the disk's blocks
        raw = folder / f"raw-{step}"  # new files on either side
        found: dict[str, float] = {"write raw": timed(lambda: write_raw(raw, tensors))}  # noqa: B023
        found["blocked"] = timed(lambda: saver.save(Progress(step, step), tensors, {}, wait=False))  # noqa: B023
        found["written"] = found["blocked"] + timed(saver.finish)
        saved = read_checkpoint(step_folder(run, step))
        assert isinstance(saved, Saved)
        found["read raw"] = timed(lambda: read_raw(raw))  # noqa: B023
        found["verified"] = timed(lambda: verify_digests(saved))  # noqa: B023
        found["loaded"] = timed(lambda: read_tensors(saved.url, tensors))  # noqa: B023
        raw.unlink()
        shutil.rmtree(saved.url)
        print(
            f"try {step}: " + ", ".join(f"{name} {value:.2f} s" for name, value in found.items()), flush=True
        )
        for name, value in found.items():
            seconds.setdefault(name, []).append(value)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a checkpoint costs.")
    parser.add_argument("--gib", type=float, default=1.0, help="size of the state")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to test"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-benchmark-", dir=options.folder))
    try:
        found = measure(options.gib, folder)
    finally:
        shutil.rmtree(folder)
    rate = {name: f"{options.gib / value:.2f} GiB/s" for name, value in found.items()}
    rows = [
        ("", "seconds", "rate", "ratio", "target"),
        ("raw write, one fsync", f"{found['write raw']:.2f}", rate["write raw"], "", ""),
        ("save, until published", f"{found['written']:.2f}", rate["written"],
         f"{found['write raw'] / found['written']:.2f} of the raw rate", ">= 0.7"),
        ("training stands still", f"{found['blocked']:.2f}", rate["blocked"],
         f"{found['blocked'] / found['written']:.3f} of the save", "<= 0.1"),
        ("raw read", f"{found['read raw']:.2f}", rate["read raw"], "", ""),
        ("all digests compared", f"{found['verified']:.2f}", rate["verified"],
         f"{found['verified'] / found['read raw']:.1f} x the raw read", ""),
        ("tensors loaded", f"{found['loaded']:.2f}", rate["loaded"],
         f"{found['loaded'] / found['read raw']:.1f} x the raw read", ""),
    ]  # fmt: skip
    print("\n".join(table_lines(rows)))


if __name__ == "__main__":
    main()
