"""Record the output of every module in a forward pass, and measure what its own parameters have changed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from launcher.data.dataset import Batch
from models.attention import Attention, rotate
from models.lm import LM
from models.residual import residuals
from models.ssd.ssd_mixer import SSD
from models.ssm.ssm_mixer import SSMMixer


@final
@dataclass(slots=True)
class Recording:
    """One forward pass, by module name, with #2, #3, ... for later uses of the same module."""

    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    inputs: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)


@final
class Recorder:
    """Hooks on every module of a model that record inputs and outputs while `recording` is set."""

    def __init__(self, model: nn.Module) -> None:
        self.recording: Recording | None = None
        self._handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in model.named_modules()
            if name
        ]

    def start(self) -> Recording:
        """Record all passes until stop, in a new recording."""
        self.recording = Recording()
        return self.recording

    def stop(self) -> None:
        """Stop recording."""
        self.recording = None

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if self.recording is None or not isinstance(tensor, torch.Tensor):
                return
            if any(_is_same(tensor, arg) for arg in args):
                return  # dropout in evaluation, or no norm: it has no effect of its own
            # A module that is used twice has two outputs; a change must be compared with the same use.
            key, use = name, 1
            while key in self.recording.outputs:
                use += 1
                key = f"{name}#{use}"
            # A copy, because residual sums and optimizers may write over the tensor later.
            self.recording.outputs[key] = tensor.detach().float().clone()
            self.recording.inputs[key] = (args, named)

        return note


def _is_same(output: torch.Tensor, given: object) -> bool:
    """Whether a module returned its input; compared by storage, because ZeRO-3's hooks wrap tensors again."""
    return (
        isinstance(given, torch.Tensor)
        and output.shape == given.shape
        and output.data_ptr() == given.data_ptr()
    )


def mean_abs(tensor: torch.Tensor) -> float:
    """Mean magnitude of a coordinate."""
    return float(tensor.abs().mean())


def changes(now: Recording, before: Recording) -> dict[str, float]:
    """Mean change of a coordinate of each output since an earlier pass over the same batch."""
    return {name: mean_abs(tensor - before.outputs[name]) for name, tensor in now.outputs.items()}


def logit_changes(model: nn.Module, now: Recording, before: Recording) -> Iterator[tuple[str, float]]:
    """Mean change of the logits of each attention layer.

    No module returns them, and softmax and the sum over values hide their growth: at the scale 1/sqrt(d) they
    grow as sqrt(d), and the layer's output by less than the bound.
    """
    for name, module in model.named_modules():
        if isinstance(module, Attention) and f"{name}.query" in now.outputs:
            change = _logits(module, name, now) - _logits(module, name, before)
            yield f"{name}.logits", mean_abs(change)


def _logits(module: Attention, name: str, recording: Recording) -> torch.Tensor:
    q, k = (
        recording.outputs[f"{name}.{part}"].unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for part in ("query", "key")
    )
    if module.rotary:
        q, k = rotate(q, 0), rotate(k, 0)
    return module.scale * q @ k.transpose(-1, -2)


def own_changes(model: nn.Module, before: Recording) -> dict[str, float]:
    """The part of each module's change that its own parameters caused: it is run again on its earlier inputs.

    Modules without parameters, and the model as a whole, are left out.
    """
    model.eval()  # dropout would be a change that no parameter caused
    return {
        name: mean_abs(rerun(model, name, before) - before.outputs[name])
        for name in before.inputs
        if any(True for _ in model.get_submodule(name.partition("#")[0]).parameters())
    }


def rerun(model: nn.Module, name: str, before: Recording) -> torch.Tensor:
    """What a module makes now of the inputs that it had in a recording; #2 is its second use."""
    args, named = before.inputs[name]
    output = model.get_submodule(name.partition("#")[0])(*args, **named)
    tensor: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return tensor.float()


@torch.no_grad()
def state_magnitudes(model: nn.Module, batch: Batch) -> Iterator[tuple[str, float]]:
    """Mean magnitude of each state-space layer's state after the batch; none for classifiers."""
    if not isinstance(model, LM):
        return
    model.eval()
    x = batch.x.to(next(model.parameters()).device)
    _, states = model(x, model.initial_states(x.shape[0], x.device))
    for index, (layer, state) in enumerate(zip(residuals(model.layers), states, strict=True)):
        if isinstance(layer.mixer, SSMMixer | SSD):
            yield f"layers.{index}.{layer.kind}", mean_abs(state[-1])
