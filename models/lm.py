"""Language model: encoder, residual layers, readout at every position."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from models.auxiliary import Entropies
from models.config import LMConfig
from models.documents import Documents
from models.encoders import build_encoder, encoder_facts, encoder_flops
from models.facts import Multipliers, ParamFacts, Role, prefixed
from models.footprint import REAL, Footprint, Pass
from models.inits import constant, normal_fan_in
from models.layers import Dropout, Embedding, Linear, Product
from models.loss import chunk_length, readout_scores
from models.mixer import State
from models.residual import (
    build_batch_entropy,
    build_last_norm,
    build_layers,
    build_mix,
    entropy_saved,
    layers_facts,
    layers_flops,
    norm_saved,
    residuals,
    run_layers,
)
from models.step_kernels import StepKernels

Step = Callable[[torch.Tensor, Sequence[State]], tuple[torch.Tensor, list[State]]]
"""One token: ids (B), or characters (B, W), and the states before -> logits (B, V) and the states after."""


class LM(nn.Module):
    """tokens (B, L) int64 -> logits (B, L, V) float32; a position sees itself and what precedes it."""

    def __init__(self, config: LMConfig, multipliers: Multipliers) -> None:
        super().__init__()
        self.readout_multiplier, self.embedding_multiplier = multipliers.readout, multipliers.embedding
        self.embedding = build_encoder(config)
        self.embedding_dropout = Dropout(config.embedding_dropout, tied=config.dropout_tied)
        self.layers = build_layers(config, multipliers)
        self.mix = build_mix(config)
        self.norm = build_last_norm(config)
        self.batch_entropy = build_batch_entropy(config)
        self.readout_dropout = Dropout(config.readout_dropout, tied=config.dropout_tied)
        tied = config.tie_embeddings
        self.readout = None if tied else Linear(config.d_model, config.vocab_size, bias=False)

    def forward(
        self,
        tokens_BL: torch.Tensor,
        states: Sequence[State] | None = None,
        documents: Documents | None = None,
        targets: torch.Tensor | None = None,
        kernels: StepKernels | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, list[State]]:
        """Logits, or of targets their `scores` (2); with the states before (of `initial_states` or an earlier
        call), also the states after.

        Where a gradient is wanted, the loss has its regularizer in it. With documents, no position sees
        another document's. With a step's kernels, layers share those.
        """
        # With and without states it must be this method: hooks of FSDP, DDP and DeepSpeed, which gather
        # parameters and prepare the reduction of gradients, run around the model's call and nothing else.
        x_BLH = self.embedding_dropout(self._embed(tokens_BL))
        measured = Entropies(self.batch_entropy if targets is not None else None)
        x_BLH, after = run_layers(
            self.layers,
            self.mix,
            x_BLH,
            states=states,
            documents=documents,
            kernels=kernels,
            each=measured.add,
        )
        result = (
            self._read_out(x_BLH) if targets is None else measured.regularize(self._score(x_BLH, targets))
        )
        return result if states is None else (result, after)

    def initial_states(self, batch_size: int, device: torch.device) -> list[State]:
        """The state of each layer before the first token."""
        return [layer.mixer.initial_state(batch_size, device) for layer in residuals(self.layers)]

    def stepper(self) -> Step:
        """A function that reads one token. It holds what can be computed from the parameters once."""
        layers = [layer.stepper() for layer in residuals(self.layers)]

        def step(tokens_B: torch.Tensor, states: Sequence[State]) -> tuple[torch.Tensor, list[State]]:
            x_BH, after, outputs = self._embed(tokens_B), [], []
            for layer, state in zip(layers, states, strict=True):
                x_BH, state = layer(x_BH, state)
                after.append(state)
                outputs.append(x_BH)
            return self._read_out(x_BH if self.mix is None else self.mix(outputs)), after

        return step

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.embedding(tokens)
        return x if self.embedding_multiplier == 1.0 else self.embedding_multiplier * x

    def _read_out(self, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, nn.functional.linear).float()

    def _score(self, x_BLH: torch.Tensor, targets_BL: torch.Tensor) -> torch.Tensor:
        def through(x_BLH: torch.Tensor, weight_VH: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
            return readout_scores(x_BLH.flatten(0, 1), weight_VH, targets_BL.flatten())

        return self._multiply(x_BLH, through)

    def _multiply(self, x: torch.Tensor, through: Product) -> torch.Tensor:
        x = self.readout_dropout(self.norm(x)) * self.readout_multiplier
        if self.readout is not None:
            return self.readout(x, through)
        assert isinstance(self.embedding, Embedding), "only tokens can be read out with their own table"
        return through(x, self.embedding.weight, None)


def lm_facts(config: LMConfig) -> dict[str, ParamFacts]:
    """Facts by name pattern."""
    std = config.embedding_std
    if std is None:
        std = 0.02 if config.tie_embeddings else 1.0
    facts = prefixed("embedding.", encoder_facts(config, std, tied=config.tie_embeddings))
    facts |= layers_facts(config)
    if config.tie_embeddings:
        return facts
    init = constant(0.0) if config.readout_zero_init else normal_fan_in
    return facts | {"readout.weight": ParamFacts(role=Role.READOUT, init=init, decay=True)}


def lm_flops(config: LMConfig, seq_len: int) -> float:
    """Forward FLOPs per token: encoder, layers, and two per weight of the readout."""
    readout = 2.0 * config.d_model * config.vocab_size
    return encoder_flops(config) + layers_flops(config, seq_len) + readout


def lm_head_footprint(config: LMConfig, step: Pass) -> Footprint:
    """Last norm, readout and loss; gradients are made with the loss, of a chunk of logits at a time."""
    width, weights = float(step.positions * config.d_model), float(config.d_model * config.vocab_size)
    saved = norm_saved(config.norm if config.prenorm else "none", step, REAL * width)
    # its input, and the gradients of both
    saved += (REAL + step.product) * width + REAL * weights
    saved += entropy_saved(config, step)
    chunk = float(min(step.positions, chunk_length(config.vocab_size)) * config.vocab_size)
    # Logits and their logarithms; in bfloat16 a slope, the rounded weight, and a chunk's part of its own.
    working = 2 * REAL * chunk + (2 * chunk + 4 * weights if step.half else 0.0)
    return Footprint(saved=saved, working=working)
