"""The door to this room: a config in; a module, its parameter facts and its cost out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from models.classifier import Classifier, classifier_facts, classifier_flops, classifier_head_footprint
from models.config import ClassifierConfig, LMConfig
from models.encoders import encoder_flops, encoder_saved
from models.facts import Multipliers, ParamFacts
from models.footprint import REAL, Footprint, KernelFootprint, Pass
from models.layer_table import layer_kind
from models.layers import BatchNorm
from models.lm import LM, lm_facts, lm_flops, lm_head_footprint
from models.residual import layer_footprints, layer_kinds, layers_carry_flops, shared_kernels, shares_kernels
from models.step_kernels import layers_of_block


def build_model(config: LMConfig | ClassifierConfig, multipliers: Multipliers | None = None) -> nn.Module:
    """Allocate the model on the default device; its values are undefined until initialised from facts."""
    multipliers = multipliers or Multipliers()
    return LM(config, multipliers) if isinstance(config, LMConfig) else Classifier(config, multipliers)


def model_facts(config: LMConfig | ClassifierConfig) -> dict[str, ParamFacts]:
    """Facts by name pattern; each parameter of `build_model(config)` matches exactly one."""
    return lm_facts(config) if isinstance(config, LMConfig) else classifier_facts(config)


def reset_buffers(model: nn.Module) -> None:
    """Give buffers their initial values: needed after `to_empty`. Only batch norm has any."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.reset()


def flops_per_token(config: LMConfig | ClassifierConfig, seq_len: int, *, carries: bool = False) -> float:
    """Training FLOPs per position: backward costs twice the forward pass (arXiv 2001.08361, section 2.1).

    `carries`: states continue from window to window.
    """
    forward = lm_flops(config, seq_len) if isinstance(config, LMConfig) else classifier_flops(config, seq_len)
    return 3.0 * forward + (layers_carry_flops(config, seq_len) if carries else 0.0)


def kernel_flops(config: LMConfig | ClassifierConfig, step: Pass) -> float:
    """Training FLOPs of all state-space kernels in one step, whatever the batch; backward as above."""
    total = 0.0
    for kind in layer_kinds(config):
        # Shared ones are made twice; those of carried states with each micro batch.
        times = 3 * step.num_micro if step.carries else 4 if shares_kernels(config, kind, step) else 3
        total += times * layer_kind(config, kind).kernel_flops(config, step.length)
    return total


def flops_by_part(config: LMConfig | ClassifierConfig, seq_len: int) -> dict[str, float]:
    """Training FLOPs per position of each kind of layer, and of what is around the layers."""
    parts: dict[str, float] = {}
    for kind in layer_kinds(config):
        parts[kind] = parts.get(kind, 0.0) + 3.0 * layer_kind(config, kind).flops(config, seq_len)
    parts["encoder"] = 3.0 * encoder_flops(config)
    parts["readout"] = flops_per_token(config, seq_len) - sum(parts.values())
    return {part: flops for part, flops in parts.items() if flops > 0}


def recurrent_state_size(config: LMConfig | ClassifierConfig) -> int:
    """Numbers that the states of one sequence are, at its first position; 0 for a classifier."""
    with torch.device("meta"):
        model = build_model(config)
    if not isinstance(model, LM):
        return 0
    return sum(part.numel() for state in model.initial_states(1, torch.device("meta")) for part in state)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFootprint:
    """Bytes of a micro batch's forward and backward pass."""

    encoder: float
    """What it keeps, its output aside: that is the first layer's input."""
    kernels: Sequence[KernelFootprint]
    """Of the layers, where a step's micro batches share them."""
    kernel_block: float
    """What making the gradients of a block of them needs beside."""
    layers: Sequence[Footprint]
    head: Footprint
    """With the loss."""
    stream: float
    """The input of one layer."""


def model_footprint(config: LMConfig | ClassifierConfig, step: Pass) -> ModelFootprint:
    """By counting tensors; no model is built."""
    head = (
        lm_head_footprint(config, step)
        if isinstance(config, LMConfig)
        else classifier_head_footprint(config, step)
    )
    kernels = shared_kernels(config, step)
    block = min(sum(one.taps > 0 for one in kernels), layers_of_block(config.d_model))
    return ModelFootprint(
        encoder=encoder_saved(config, step),
        kernels=kernels,
        # with the gradients of what lies between: measured 0.21 to 0.30 of it
        kernel_block=block * max(one.taps + 1.25 * one.between for one in kernels),
        layers=layer_footprints(config, step),
        head=head,
        stream=REAL * float(step.positions * config.d_model),
    )
