"""Classifier of sequences or pairs of them: encoder, residual layers, pooling over valid positions, readout.

Letters: B batch, L length, W characters of a word, F features of a signal, H d_model, K classes.
"""

import math

import torch
from torch import nn

from models.auxiliary import Entropies, SoftNeighbours
from models.config import ClassifierConfig
from models.encoders import build_encoder, encoder_facts, encoder_flops
from models.facts import Multipliers, ParamFacts, Role, prefixed
from models.footprint import REAL, Footprint, Pass
from models.inits import constant, normal_fan_in
from models.layers import BIAS, Dropout, Linear, linear_facts
from models.loss import scores
from models.residual import (
    build_batch_entropy,
    build_last_norm,
    build_layers,
    build_mix,
    entropy_saved,
    layers_facts,
    layers_flops,
    norm_saved,
    normalise,
    run_layers,
)
from models.step_kernels import StepKernels


class Comparison(nn.Module):
    """Vectors of two sequences (B, 2, H) to one (B, H): GELU of a linear map of [a, b, a - b, a * b].

    The head of state-spaces/s4 for Long Range Arena's Retrieval (src/tasks/decoders.py, RetrievalHead, and
    configs/pipeline/aan.yaml), which follows the NLI interaction of the benchmark's own dual encoder.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.hidden = Linear(4 * d_model, d_model)

    def forward(self, x_B2H: torch.Tensor) -> torch.Tensor:
        a_BH, b_BH = x_B2H.unbind(1)
        features = torch.cat((a_BH, b_BH, a_BH - b_BH, a_BH * b_BH), dim=-1)
        return nn.functional.gelu(self.hidden(features))


class Classifier(nn.Module):
    """Tokens (B, L), characters of words (B, L, W) or signals (B, L, F), and lengths (B) -> logits (B, K)
    float32, of no padding. Of pairs, inputs are (B, 2, L, ...) and lengths (B, 2)."""

    def __init__(self, config: ClassifierConfig, multipliers: Multipliers) -> None:
        super().__init__()
        self.readout_multiplier, self.pool = multipliers.readout, config.pool
        self.embedding_multiplier = multipliers.embedding
        self.embedding = build_encoder(config)
        self.embedding_dropout = Dropout(config.embedding_dropout, tied=config.dropout_tied)
        self.layers = build_layers(config, multipliers)
        self.mix = build_mix(config)
        self.norm = build_last_norm(config)
        self.compare = Comparison(config.d_model) if config.num_sequences == 2 else None
        self.batch_entropy = build_batch_entropy(config)
        self.soft_neighbours = SoftNeighbours(config.soft_neighbours) if config.soft_neighbours else None
        self.readout_dropout = Dropout(config.readout_dropout)
        self.readout = Linear(config.d_model, config.num_classes)

    def forward(
        self,
        inputs: torch.Tensor,
        lengths: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        kernels: StepKernels | None = None,
    ) -> torch.Tensor:
        """Logits, or of labels their `scores` (2). With a step's kernels, layers share those.

        Where a gradient is wanted, the loss has its regularizers in it. Positions from a sequence's length on
        are padding; without lengths, none is.
        """
        measured = Entropies(self.batch_entropy if targets is not None else None)
        if self.compare is None:
            pooled_BH = self._encode(inputs, lengths, kernels, measured)
        else:
            # both sequences of all pairs are one batch to the layers
            lengths = None if lengths is None else lengths.flatten()
            pooled_BH = self.compare(
                self._encode(inputs.flatten(0, 1), lengths, kernels, measured).unflatten(0, (-1, 2))
            )
        # the bias is finite: the multiplier is on what comes from the width
        head_BH = self.readout_dropout(pooled_BH[:, None])[:, 0] * self.readout_multiplier
        logits_BK = self.readout(head_BH).float()
        if targets is None:
            return logits_BK
        result = measured.regularize(scores(logits_BK, targets))
        if self.soft_neighbours is None or not torch.is_grad_enabled():
            return result
        # a mean over samples, and the loss is a sum
        return torch.stack((result[0] + len(targets) * self.soft_neighbours(pooled_BH, targets), result[1]))

    def _encode(
        self,
        inputs: torch.Tensor,
        lengths_B: torch.Tensor | None,
        kernels: StepKernels | None,
        measured: Entropies,
    ) -> torch.Tensor:
        """One vector (B, H) for each sequence."""
        mask_BL = None
        if lengths_B is not None:
            mask_BL = torch.arange(inputs.shape[1], device=inputs.device) < lengths_B[:, None]
        x_BLH = self.embedding(inputs)
        if self.embedding_multiplier != 1.0:
            x_BLH = self.embedding_multiplier * x_BLH
        x_BLH = self.embedding_dropout(x_BLH)
        x_BLH, _ = run_layers(self.layers, self.mix, x_BLH, mask_BL, kernels=kernels, each=measured.add)
        return self._pool(normalise(self.norm, x_BLH, mask_BL), mask_BL)

    def _pool(self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        if mask_BL is None:
            mask_BL = torch.ones(x_BLH.shape[:2], dtype=torch.bool, device=x_BLH.device)
        mask_BL1, lengths_B1 = mask_BL[..., None], mask_BL.sum(1, keepdim=True)
        if self.pool == "mean":
            return (x_BLH * mask_BL1).sum(1) / lengths_B1.to(x_BLH.dtype)
        if self.pool == "max":
            return x_BLH.masked_fill(~mask_BL1, -torch.inf).amax(1)
        last_B1H = (lengths_B1 - 1)[..., None].expand(-1, -1, x_BLH.shape[2])
        return x_BLH.gather(1, last_B1H)[:, 0]


def classifier_facts(config: ClassifierConfig) -> dict[str, ParamFacts]:
    """Facts by name pattern."""
    init = constant(0.0) if config.readout_zero_init else normal_fan_in
    facts = prefixed("embedding.", encoder_facts(config, 1.0, tied=False)) | layers_facts(config)
    if config.num_sequences == 2:
        facts |= linear_facts("compare.hidden")
    if (section := config.soft_neighbours) is not None:
        cold = constant(-math.log(section.temperature))
        facts["soft_neighbours.log_inverse_temperature"] = ParamFacts(
            role=Role.VECTOR, init=cold, decay=False
        )
    readout = ParamFacts(role=Role.READOUT, init=init, decay=True)
    return facts | {"readout.weight": readout, "readout.bias": BIAS}


def classifier_flops(config: ClassifierConfig, seq_len: int) -> float:
    """Forward FLOPs per position of every sequence: encoder and layers; once per label, two per weight of the
    comparison of a pair and of the readout."""
    compare = 4 * config.d_model**2 if config.num_sequences == 2 else 0
    head = 2.0 * (compare + config.d_model * config.num_classes)
    return encoder_flops(config) + layers_flops(config, seq_len) + head / (config.num_sequences * seq_len)


def classifier_head_footprint(config: ClassifierConfig, step: Pass) -> Footprint:
    """Last norm and pooling; logits are few."""
    width = REAL * float(step.positions * config.d_model)
    norm = norm_saved(config.norm if config.prenorm else "none", step, width)
    return Footprint(saved=norm + entropy_saved(config, step), working=width)
