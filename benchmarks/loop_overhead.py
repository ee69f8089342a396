"""Our loop against a bare PyTorch loop of the same model: processor time and peak memory of a step.

    python benchmarks/loop_overhead.py [--quick] [RECIPE [key=value ...]]

Bare is forward, backward, clip_grad_norm_, a rate set by hand and AdamW(fused) on ready batches. Ours
is what train() does between two checkpoints: batches read and prefetched, schedule, engine, norms of every
parameter at every step, update ratios and a journal line at every tenth. One thread of computation; processor
time, as a shared machine's wall clock says little; both sides take turns, and the least of the rounds counts.
Memory is the growth of the peak resident set, each side in a process of its own; the data is open before.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import nn

from launcher.clock import Clock
from launcher.data.batches import Batches
from launcher.data.dataset import Batch, Dataset
from launcher.data.splits import open_splits
from launcher.mup.init import init_parameters
from launcher.optim.schedule import Schedule
from launcher.parallel.open_engine import open_engine
from launcher.plan.plan import Plan, make_plan
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe
from launcher.track.step_metrics import make_metrics
from launcher.track.tracker import Tracker
from launcher.world import seed_step, world_on
from models.build_model import build_model

QUICKSTART = Path(__file__).parents[1] / "recipes" / "s4d-lm-quickstart.yaml"
WORLD = world_on("cpu")
STEPS = 10
"""Of one round."""
Loop = Callable[[int], None]
"""Takes the step of that number."""


@contextmanager
def bare_loop(recipe: Recipe, plan: Plan, batches: list[list[Batch]]) -> Iterator[Loop]:
    """What one would write without us."""
    parameters = plan.parameters
    model = build_model(recipe.model, parameters.multipliers)
    scales = {name: scaling.init for name, scaling in parameters.scalings.items()}
    init_parameters(model, parameters.facts, scales, recipe.seed)
    live = dict(model.named_parameters())
    groups = [
        {"params": [live[name] for name in g.parameters], "lr": g.lr, "weight_decay": g.weight_decay}
        for g in parameters.groups
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    peaks = [group["lr"] for group in groups]

    def take(step: int) -> None:
        micro_batches = batches[step % len(batches)]
        for batch in micro_batches:
            loss = nn.functional.cross_entropy(model(batch.x).flatten(0, -2), batch.y.flatten())
            (loss / len(micro_batches)).backward()
        nn.utils.clip_grad_norm_(live.values(), 1.0)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = 0.5 * peak
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    yield take


@contextmanager
def our_loop(recipe: Recipe, plan: Plan, samples: Dataset) -> Iterator[Loop]:
    """The inside of train()."""
    _, engine = open_engine(recipe, plan, WORLD)
    batches = make_batches(recipe, plan, samples, prefetch=recipe.data.prefetch)
    schedule = Schedule(recipe.schedule, plan.steps)
    metrics = make_metrics(recipe, plan, WORLD, Clock())
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(
            Path(folder),
            rank=0,
            attempt=1,
            total_steps=plan.steps,
            log_every=STEPS,
            mlflow=None,
            stream=None,
        )

        def take(step: int) -> None:
            factor = schedule.lr_multiplier(step)
            seed_step(recipe.seed, step, WORLD.rank)
            log = (step + 1) % STEPS == 0
            taken = engine.train_step(batches.at(step), factor, measure=log)
            metrics.add(taken)
            if log:
                tracker.log_step(metrics.record(step, taken, engine.average(taken.loss)))

        yield take
        batches.close()


def make_batches(recipe: Recipe, plan: Plan, samples: Dataset, *, prefetch: int) -> Batches:
    """As train() makes them."""
    return Batches(
        samples,
        global_batch_size=plan.batch.global_batch_size,
        micro_batch_size=plan.batch.micro_batch_size,
        rank=0,
        world_size=1,
        seed=recipe.seed,
        prefetch=prefetch,
    )


def measure_time(loops: dict[str, Loop], *, rounds: int) -> dict[str, float]:
    """Processor seconds of a step on each side, which take turns step by step.

    The least of all rounds at each of STEPS positions, one of which is logged, then the mean of these.
    """
    least = {name: [float("inf")] * STEPS for name in loops}
    for loop in loops.values():
        loop(0)  # first touch of buffers and moments
    for step in range(rounds * STEPS):
        for name, loop in loops.items():
            start = time.process_time()
            loop(step)
            place = step % STEPS
            least[name][place] = min(least[name][place], time.process_time() - start)
    return {name: sum(values) / STEPS for name, values in least.items()}


def measure_memory(make: Callable[[], AbstractContextManager[Loop]]) -> float:
    """Growth of the peak resident set in MB over building one side and taking some steps."""

    def child() -> None:
        torch.set_num_threads(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with make() as loop:
            for step in range(STEPS):
                loop(step)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        sender.send(grown / 1024)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child)
    process.start()
    process.join()
    return receiver.recv()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default=str(QUICKSTART))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    alone = ("cluster.nproc_per_node=1", "parallel.strategy=single")
    recipe = load_recipe(options.recipe, (*alone, *options.overrides)).recipe
    plan = make_plan(recipe, 1)
    samples = open_splits(recipe.data, recipe.model.vocab_size).train
    ready = make_batches(recipe, plan, samples, prefetch=0)
    batches = [ready.at(step) for step in range(STEPS)]
    memory = {
        "bare": measure_memory(lambda: bare_loop(recipe, plan, batches)),
        "ours": measure_memory(lambda: our_loop(recipe, plan, samples)),
    }
    with bare_loop(recipe, plan, batches) as bare, our_loop(recipe, plan, samples) as ours:
        loops = {"bare": bare, "ours": ours}
        seconds = measure_time(loops, rounds=2 if options.quick else 12)
    tokens = plan.batch.tokens_per_step
    print(f"{recipe.name}: {plan.parameters.num_parameters:,} parameters, {tokens:,} tokens a step")
    print(f"{'':12}{'bare':>10}{'ours':>10}{'ratio':>8}")
    print_row("tokens/s", tokens / seconds["bare"], tokens / seconds["ours"])
    print_row("peak MB", memory["bare"], memory["ours"])


def print_row(what: str, bare: float, ours: float) -> None:
    """One line of the table."""
    print(f"{what:12}{bare:10.1f}{ours:10.1f}{ours / bare:8.3f}")


if __name__ == "__main__":
    main()
