"""Steps of the 1B recipes on one GPU beside a plain compiled GPT; and, without one, what decides their speed.

    python benchmarks/gpu.py [--micro N]      times, on the GPU that is there
    python benchmarks/gpu.py --counts         on any machine: operations of a step, bytes that a layer keeps
    python benchmarks/gpu.py --tiny           the first on narrow models, on whatever is there: to try it

An operation is what torch dispatches on whole tensors, as on a GPU, in forward, backward, norm, clipping and
update, uncompiled: views and allocations, which launch nothing, are not counted. Counted at width 128, of a
step with one micro batch, and what a second one adds.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.data.dataset import Batch
from launcher.parallel.open_engine import open_engine
from launcher.plan.plan import make_plan
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe
from launcher.world import World
from models.footprint import Pass
from models.residual import layer_footprints

KINDS = {"s4": "s4", "s4d": "s4d", "ssd": "ssd", "attention": "transformer"}
ALONE = ("cluster.type=local", "cluster.nodes=1", "cluster.nproc_per_node=1", "parallel.strategy=single")
NARROW = ("model.d_model=128", "mup.base_width=128", "model.num_layers=40", "model.vocab_size=512")
_LAUNCH_NOTHING = ("empty", "_unsafe_view", "_record_function", "promote_types")


def recipe_of(kind: str, micro: int, num_micro: int, *words: str) -> Recipe:
    """The 1B recipe of a kind of layer, for one process."""
    batch = (f"train.micro_batch_size={micro}", f"train.global_batch_size={micro * num_micro}")
    return load_recipe(f"recipes/{KINDS[kind]}-lm-1b.yaml", [*ALONE, *batch, *words]).recipe


def stepper(recipe: Recipe, device: torch.device) -> Callable[[], object]:
    """A function that takes one step on the same random tokens."""
    world = World(rank=0, local_rank=0, size=1, local_size=1, device=device)
    plan = make_plan(recipe, 1)
    _, engine = open_engine(recipe, plan, world)
    assert recipe.model.type == "lm"
    shape = (plan.batch.micro_batch_size, plan.batch.seq_len)
    ids = torch.randint(recipe.model.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    batches = [Batch(x=ids, y=ids) for _ in range(plan.batch.num_micro)]
    return lambda: engine.train_step(batches, 1.0)


class Operations(TorchDispatchMode):
    """Counts what launches work."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        self.count += not views and not any(name in str(func) for name in _LAUNCH_NOTHING)
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Whole tensors instead of cache blocks; kernels as those of a large model."""
    with (
        mock.patch("models.cache_blocks.takes_blocks", return_value=False),
        mock.patch("models.step_kernels._KEPT_CHANNELS", 0),
    ):
        yield


def operations(kind: str, num_micro: int, seq_len: int) -> int:
    """Of a step with so many micro batches."""
    with as_on_a_gpu():
        step = stepper(recipe_of(kind, 1, num_micro, *NARROW, f"data.seq_len={seq_len}"), torch.device("cpu"))
        step()
        with Operations() as found:
            step()
    return found.count


def activation_bytes(kind: str) -> float:
    """That the layer keeps in bfloat16 steps for each token and channel, kernels apart; see test_counts."""
    config, step = recipe_of(kind, 8, 2).model, Pass(sequences=8, length=2048, half=True, num_micro=2)
    return layer_footprints(config, step)[0].saved / (step.positions * config.d_model)


def print_counts(seq_len: int) -> None:
    """One line a recipe."""
    for kind, name in KINDS.items():
        one, two = (operations(kind, count, seq_len) for count in (1, 2))
        print(
            f"{name + '-lm-1b':18} operations {one:6,}  each further micro batch {two - one:6,}"
            f"  activation_bytes {activation_bytes(kind):.1f}",
            flush=True,
        )


class PlainGPT(nn.Module):
    """Forty lines of what everybody writes: pre-norm blocks, torch's attention, all logits at once."""

    def __init__(self, width: int, num_layers: int, vocab_size: int) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocab_size, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The mean loss of the next token."""
        x = self.embedding(ids)
        for block in self.blocks:
            qkv = block["qkv"](block["norm1"](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(*qkv, is_causal=True)
            x = x + block["out"](mixed.transpose(1, 2).flatten(2))
            x = x + block["down"](nn.functional.gelu(block["up"](block["norm2"](x))))
        logits = self.readout(self.norm(x))
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def plain_stepper(recipe: Recipe, device: torch.device) -> Callable[[], object]:
    """The same for a plain GPT with as many layers of attention and ffn, compiled on a GPU."""
    assert recipe.model.type == "lm"
    model = PlainGPT(recipe.model.d_model, recipe.model.num_layers // 2, recipe.model.vocab_size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if device.type == "cuda" else model
    shape = (recipe.train.micro_batch_size, recipe.data.seq_len)
    ids = torch.randint(recipe.model.vocab_size, shape, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = forward(ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def milliseconds(step: Callable[[], object], device: torch.device) -> float:
    """Of a step: the least of five, after three that compile and allocate."""
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best = math.inf
    for trial in range(8):
        wait()
        start = time.perf_counter()
        step()
        wait()
        best = min(best, time.perf_counter() - start) if trial >= 3 else best
    return best * 1e3


def print_times(micro: int, words: Sequence[str], device: torch.device) -> None:
    """A row a model: time of a step, tokens and FLOPs a second, the peak of memory beside the plan's."""
    print(f"{'model':18} {'micro':>5} {'ms':>8} {'tokens/s':>9} {'TFLOP/s':>8} {'GiB':>6} {'plan GiB':>8}")
    for name in [*KINDS, "plain GPT"]:
        recipe = recipe_of(name if name in KINDS else "attention", micro, 1, *words)
        plan = make_plan(recipe, 1)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        step = stepper(recipe, device) if name in KINDS else plain_stepper(recipe, device)
        took, tokens = milliseconds(step, device), micro * recipe.data.seq_len
        rate = (tokens * plan.flops_per_token + plan.kernel_flops * (name in KINDS)) / took / 1e9
        peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else math.nan
        planned = f"{plan.peak.total / 2**30:8.1f}" if name in KINDS else ""
        print(
            f"{name:18} {micro:5} {took:8.1f} {tokens / took * 1e3:9,.0f} {rate:8.1f} {peak:6.1f} {planned}"
        )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=2048, help="of --counts")
    options = parser.parse_args()
    if options.counts:
        return print_counts(options.seq_len)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.error("torch finds no GPU here; --counts and --tiny work without one")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device), torch.__version__)
    words = (*NARROW, "model.num_layers=2", "data.seq_len=64") if options.tiny else ()
    return print_times(options.micro, words, device)


if __name__ == "__main__":
    main()
