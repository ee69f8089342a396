"""What is done to every residual layer beside sharding: recomputing its activations, compiling it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from launcher.parallel.config import ParallelConfig

_aten = torch.ops.aten
# What selective checkpointing keeps: results of matrix products and of FFTs. The rest is cheap to redo.
_KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
        _aten._fft_r2c.default,
        _aten._fft_c2r.default,
        _aten._fft_c2c.default,
    }
)


def wrap_layers(model: nn.Module, config: ParallelConfig) -> None:
    """Recompute or compile each residual layer, as configured.

    The layer's forward is replaced, not the layer: names stay, and the hooks that gather and free sharded
    parameters stay outside, so that a recomputation finds its parameters gathered.
    """
    for layer in model.get_submodule("layers").children():
        forward: Callable[..., Any] = layer.forward
        # Compiled inside, checkpointed outside: a recomputation then runs the compiled graph a second time.
        if config.compile:
            forward = torch.compile(forward)
        match config.activation_checkpointing:
            case "off":
                pass
            case "full" | "selective" as mode:
                contexts = partial(_contexts, layer, selective=mode == "selective")
                forward = partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)
        if forward != layer.forward:
            vars(layer)["forward"] = forward


def _contexts(
    layer: nn.Module, *, selective: bool
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What a layer's forward runs in, and what its recomputation runs in."""
    forward, again = (
        create_selective_checkpoint_contexts(_policy) if selective else (nullcontext(), nullcontext())
    )
    return forward, _keep_buffers(layer, again)


@contextmanager
def _keep_buffers(layer: nn.Module, within: AbstractContextManager[Any]) -> Iterator[None]:
    """Undo what a recomputation does to buffers: batch norm's running averages count each batch once."""
    # BatchNorm lerps its averages in each forward in training, and a recomputed layer runs forward twice.
    before = [(buffer, buffer.clone()) for buffer in layer.buffers()]
    try:
        with within:
            yield
    finally:  # a recomputation ends with an exception as soon as it has all that backward needs
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _policy(context: SelectiveCheckpointContext, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
