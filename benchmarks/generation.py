"""Time per token of recurrent generation against the position, and against forwards without a state.

`python benchmarks/generation.py` prints one table; one thread, process CPU time, the least of several tries.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from models.build_model import build_model, model_facts
from models.config import LayerName, LMConfig
from models.facts import match_facts
from models.lm import LM

KINDS: tuple[LayerName, ...] = ("s4d", "s4", "dss", "ssd", "momentum", "attention")
POSITIONS = (64, 1024, 8192)
TOKENS, TRIES = 32, 9
"""Tokens of one measurement, and measurements at each position."""


def make_model(kind: LayerName, d_model: int, num_layers: int) -> LM:
    """A byte model of one kind of layer."""
    config = LMConfig(type="lm", vocab_size=256, d_model=d_model, num_layers=num_layers, pattern=(kind,))
    model = build_model(config)
    assert isinstance(model, LM)
    facts = match_facts([name for name, _ in model.named_parameters()], model_facts(config))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(facts[name].init(parameter.shape, generator))
    return model.eval()


def cpu_s(work: Callable[[], object], tries: int) -> float:
    """Least CPU time of several tries, after one that is not counted."""
    times = []
    work()
    for _ in range(tries):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@torch.no_grad()
def time_per_token(model: LM, position: int) -> float:
    """Seconds for one token after `position` tokens."""
    tokens_BL = torch.randint(0, 256, (1, position), generator=torch.Generator().manual_seed(1))
    _, states = model(tokens_BL, model.initial_states(1, tokens_BL.device))
    step, token_B = model.stepper(), tokens_BL[:, 0]

    def speak() -> None:
        after = states
        for _ in range(TOKENS):
            _, after = step(token_B, after)

    return cpu_s(speak, TRIES) / TOKENS


@torch.no_grad()
def time_per_forward(model: nn.Module, position: int) -> float:
    """Seconds for one token without a state: a forward over all before it."""
    tokens_BL = torch.randint(0, 256, (1, position), generator=torch.Generator().manual_seed(1))
    return cpu_s(lambda: model(tokens_BL), 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--positions", type=int, nargs="+", default=list(POSITIONS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    first = options.positions[0]
    print(f"{options.layers} layers, d_model {options.d_model}, batch 1, one thread\n")
    print(f"| layers | position | ms a token | x position {first} | forward over all, ms | x of a token |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        model = make_model(kind, options.d_model, options.layers)
        before = None
        for position in options.positions:
            token_s = time_per_token(model, position)
            before = before or token_s
            forward_s = time_per_forward(model, position)
            print(
                f"| {kind} | {position} | {token_s * 1e3:.3f} | {token_s / before:.2f} | "
                f"{forward_s * 1e3:.1f} | {forward_s / token_s:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
