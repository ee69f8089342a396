"""What guard, beacon of the watchdog and ledger cost: a step with all of them over the same step without.

    python benchmarks/guard_overhead.py [--quick] [RECIPE [key=value ...]]

Without: no decision on the update, no undoing of buffers, no beacon in the clock. One thread, one process;
both sides take turns step by step, processor time, the median ratio of pairs. Also the number of times that a
step which does not log reads a value from the device (host waits), counted by the dispatcher of torch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.clock import Clock
from launcher.data.batches import Batches
from launcher.data.dataset import Dataset
from launcher.data.splits import open_splits
from launcher.guard.beacon import Beacon
from launcher.parallel import torch_engine
from launcher.parallel.open_engine import open_engine
from launcher.parallel.update_guard import Agreed
from launcher.plan.plan import Plan, make_plan
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe
from launcher.world import seed_step, world_on

QUICKSTART = Path(__file__).parents[1] / "recipes" / "s4d-lm-quickstart.yaml"
WORLD = world_on("cpu")
WAITS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero")
NOTHING = Agreed(stop=False, skips_in_row=0, skips=0, bad_losses=0)


class NoGuard:
    """Counts targets, as every step must, and decides nothing."""

    def begin(self, targets: torch.Tensor, *, stop: bool) -> torch.Tensor:
        return targets.to(WORLD.device, torch.float32)

    def decide(self, norm: torch.Tensor, loss: torch.Tensor) -> None:
        return None

    def agreed(self) -> Agreed:
        return NOTHING


class CountWaits(TorchDispatchMode):
    """Counts operations that make the host wait for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += func.name().split(".")[0] in WAITS
        return func(*args, **(kwargs or {}))


def make_step(
    recipe: Recipe, plan: Plan, samples: Dataset, clock: Clock, *, guarded: bool
) -> Callable[[int], None]:
    """The inside of the loop for a step that does not log."""
    _, engine = open_engine(recipe, plan, WORLD)
    if not guarded:
        engine.guard = NoGuard()  # type: ignore[assignment]
    batches = Batches(
        samples,
        global_batch_size=plan.batch.global_batch_size,
        micro_batch_size=plan.batch.micro_batch_size,
        rank=0,
        world_size=1,
        seed=recipe.seed,
        prefetch=0,
    )
    ready = [batches.at(step) for step in range(8)]
    true = torch_engine.keep_buffers, torch_engine.undo_buffers
    without = (lambda model: {}), (lambda model, before, skip: None)

    def take(step: int) -> None:
        torch_engine.keep_buffers, torch_engine.undo_buffers = true if guarded else without
        with clock.phase("data", step + 1):
            micro_batches = ready[step % len(ready)]
        with clock.phase("step"):
            seed_step(recipe.seed, step, 0)
            engine.train_step(micro_batches, 1.0)

    return take


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default=str(QUICKSTART))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    alone = ("cluster.nproc_per_node=1", "parallel.strategy=single")
    recipe = load_recipe(options.recipe, (*alone, *options.overrides)).recipe
    plan = make_plan(recipe, 1)
    samples = open_splits(recipe.data, recipe.model.vocab_size).train
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(beacon=Beacon(Path(folder), 0))
        on = make_step(recipe, plan, samples, clock, guarded=True)
        off = make_step(recipe, plan, samples, Clock(), guarded=False)
        for step in range(2):
            on(step)
            off(step)
        pairs = []
        for step in range(2, 6 if options.quick else 202):
            seconds = []
            for take in (on, off) if step % 2 else (off, on):
                start = time.process_time()
                take(step)
                seconds.append(time.process_time() - start)
            pairs.append(seconds if step % 2 else seconds[::-1])
        with CountWaits() as waits:
            on(99)
    ratio = statistics.median(a / b for a, b in pairs)
    least = [min(side) * 1e3 for side in zip(*pairs, strict=True)]
    print(f"{recipe.name}: {plan.parameters.num_parameters:,} parameters, {len(pairs)} pairs of steps")
    print(f"{'':24}{'on':>9}{'off':>9}{'ratio':>8}")
    print(f"{'median ratio of pairs':24}{'':>18}{ratio:8.4f}")
    print(f"{'least step, ms':24}{least[0]:9.1f}{least[1]:9.1f}{least[0] / least[1]:8.4f}")
    print(f"{'host waits in a step':24}{waits.found:9}")


if __name__ == "__main__":
    main()
