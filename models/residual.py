"""Residual layers, and the stack of them that every model has."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn

from models.auxiliary import BatchEntropy
from models.config import BackboneSection, LayerName, branch_factor
from models.documents import Documents
from models.facts import Multipliers, ParamFacts, Role, prefixed
from models.footprint import NO_KERNELS, REAL, Footprint, KernelFootprint, Pass
from models.inits import constant
from models.layer_table import layer_kind
from models.layers import BatchNorm, Dropout, build_norm, norm_facts
from models.mixer import Mixer, State, Step
from models.step_kernels import StepKernels, keeps_graph


class Residual(nn.Module):
    """skip * x + factor * dropout(mixer(norm(x))), or norm(skip * x + ...).

    The mixer's attribute is its kind, so that names read `layers.3.s4d.ssm.C`.
    """

    def __init__(
        self,
        config: BackboneSection,
        kind: LayerName,
        factors: tuple[float, float],
        multipliers: Multipliers,
    ) -> None:
        super().__init__()
        self.kind, self.prenorm = kind, config.prenorm
        self.skip, self.factor = factors
        self.norm = build_norm(config.norm, config.d_model)
        self.dropout = Dropout(config.dropout, tied=config.dropout_tied)
        self.add_module(kind, layer_kind(config, kind).build(config, multipliers))

    @property
    def mixer(self) -> Mixer:
        """The branch's own module."""
        mixer: Mixer = getattr(self, self.kind)
        return mixer

    def forward(
        self,
        x_BLH: torch.Tensor,
        mask_BL: torch.Tensor | None = None,
        state: State | None = None,
        documents: Documents | None = None,
        kernel_CHL: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, State]:
        """The layer's output; with a state before, also the state after.

        With the kernel of its state space, that is not made here.
        """
        # One method for both, not an `advance` beside it: FSDP gathers this layer's parameters, and
        # activation checkpointing and torch.compile wrap it, around `forward` alone.
        inputs = normalise(self.norm, x_BLH, mask_BL) if self.prenorm else x_BLH
        if state is None:
            # not every kind knows of these
            apart = () if documents is None else (documents,)
            ready = {} if kernel_CHL is None else {"kernel_CHL": kernel_CHL}
            return self._add(x_BLH, self.mixer(inputs, mask_BL, *apart, **ready), mask_BL)
        branch_BLH, state = self.mixer.advance(inputs, state)
        return self._add(x_BLH, branch_BLH, mask_BL), state

    def stepper(self) -> Step:
        """A function that takes one token through the layer; see Mixer.stepper."""
        mix = self.mixer.stepper()

        def step(x_BH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            inputs = self.norm(x_BH) if self.prenorm else x_BH
            branch_BH, state = mix(inputs, state)
            return self._add(x_BH, branch_BH, None), state

        return step

    def _add(self, x: torch.Tensor, branch: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        # only u-muP has another skip than 1: everyone else is spared a pass over the activations
        kept = x if self.skip == 1.0 else self.skip * x
        x = torch.add(kept, self.dropout(branch), alpha=self.factor)
        return x if self.prenorm else normalise(self.norm, x, mask_BL)


class LayerMix(nn.Module):
    """sum_l sigmoid(a_l) h_l over all layers' outputs, (..., H) each (GTrans, arXiv 2207.14467)."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.empty(num_layers))

    def forward(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        weights = torch.sigmoid(self.gates).to(outputs[0].dtype).unbind(0)
        total = weights[0] * outputs[0]
        # summed one by one: a stack of all outputs would be a second copy of every layer's activations
        for weight, output in zip(weights[1:], outputs[1:], strict=True):
            total = total + weight * output
        return total


def normalise(norm: nn.Module, x: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
    """Apply a norm; only batch norm must know which positions are valid."""
    normed: torch.Tensor = norm(x, mask_BL) if isinstance(norm, BatchNorm) else norm(x)
    return normed


def run_layers(
    layers: nn.ModuleList,
    mix: LayerMix | None,
    x_BLH: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    states: Sequence[State] | None = None,
    documents: Documents | None = None,
    kernels: StepKernels | None = None,
    each: Callable[[torch.Tensor], None] | None = None,
) -> tuple[torch.Tensor, list[State]]:
    """Through all layers: what the head sees, and the states after, where there were states before.

    `each` is shown every layer's output.
    """
    outputs, after = [], []
    ready = {} if kernels is None or states is not None else _kernels(layers, kernels, x_BLH.shape[1])
    for index, layer in enumerate(layers):
        if states is None:
            x_BLH = layer(x_BLH, mask_BL, None, documents, ready.get(index))
        else:
            x_BLH, state = layer(x_BLH, mask_BL, states[index])
            after.append(state)
        if mix is not None:
            outputs.append(x_BLH)
        if each is not None:
            each(x_BLH)
    return (x_BLH if mix is None else mix(outputs)), after


def _kernels(layers: nn.ModuleList, kernels: StepKernels, length: int) -> dict[int, torch.Tensor]:
    """By the number of the layer, of those that have kernels."""
    mixers = {index: layer.mixer.kernel_source for index, layer in enumerate(residuals(layers))}
    sources = {index: source for index, source in mixers.items() if source is not None}
    found: dict[int, torch.Tensor] = {}
    for kind in dict.fromkeys(map(type, sources.values())):
        places = [index for index, source in sources.items() if type(source) is kind]
        found |= zip(places, kernels.of([sources[index] for index in places], length), strict=True)
    return found


def layer_kinds(config: BackboneSection) -> list[LayerName]:
    """The kind of every layer, first to last."""
    return list(config.pattern) * (config.num_layers // len(config.pattern))


def build_layers(config: BackboneSection, multipliers: Multipliers) -> nn.ModuleList:
    """All residual layers."""
    pairs = zip(layer_kinds(config), layer_factors(config, multipliers), strict=True)
    return nn.ModuleList(Residual(config, kind, pair, multipliers) for kind, pair in pairs)


def layer_factors(config: BackboneSection, multipliers: Multipliers) -> tuple[tuple[float, float], ...]:
    """(skip, branch) of every layer."""
    return multipliers.residual or ((1.0, branch_factor(config)),) * config.num_layers


def residuals(layers: nn.ModuleList) -> list[Residual]:
    """The layers as what they are."""
    return [cast(Residual, layer) for layer in layers]


def build_mix(config: BackboneSection) -> LayerMix | None:
    """The mix over layers, if the section asks for it."""
    return LayerMix(config.num_layers) if config.layer_mix == "gated" else None


def build_batch_entropy(config: BackboneSection) -> BatchEntropy | None:
    """None where it is not asked for."""
    section = config.batch_entropy
    return None if section is None else BatchEntropy(section, config.num_layers)


def entropy_saved(config: BackboneSection, step: Pass) -> float:
    """Bytes of every layer's deviations from its mean, until the backward pass."""
    deviations = REAL * float(step.positions * config.d_model * config.num_layers)
    return deviations if config.batch_entropy is not None else 0.0


def build_last_norm(config: BackboneSection) -> nn.Module:
    """The norm before the head; after post-norm layers there is nothing left to do."""
    return build_norm(config.norm if config.prenorm else "none", config.d_model)


def layers_facts(config: BackboneSection) -> dict[str, ParamFacts]:
    """Facts of the layers, the mix and the last norm; one pattern for the same parameter of all layers."""
    facts = norm_facts(config.norm, "layers.*.norm")
    for kind in dict.fromkeys(config.pattern):
        facts |= prefixed(f"layers.*.{kind}.", layer_kind(config, kind).facts(config))
    if config.layer_mix == "gated":
        facts["mix.gates"] = ParamFacts(role=Role.VECTOR, init=constant(0.0), decay=False)
    if (entropy := config.batch_entropy) is not None:
        init = constant(entropy.target)
        facts["batch_entropy.target"] = ParamFacts(role=Role.VECTOR, init=init, decay=False)
    return facts | norm_facts(config.norm if config.prenorm else "none", "norm")


def layers_carry_flops(config: BackboneSection, seq_len: int) -> float:
    """Training FLOPs per position that carrying the states of all layers adds."""
    return sum(layer_kind(config, kind).carry_flops(config, seq_len) for kind in layer_kinds(config))


def layers_flops(config: BackboneSection, seq_len: int) -> float:
    """Forward FLOPs per position of all layers, by each kind's own formula."""
    return sum(layer_kind(config, kind).flops(config, seq_len) for kind in layer_kinds(config))


def layer_footprints(config: BackboneSection, step: Pass) -> list[Footprint]:
    """Of every layer, its norm and its sum included; and its kernels, where it keeps their graph."""
    width = REAL * float(step.positions * config.d_model)
    masks = step.product / REAL * width if config.keeps_masks else 0.0
    # u-muP's factors, other than 1, are numbers: neither they nor a sum keep anything
    own = norm_saved(config.norm, step, width) + masks
    found = {}
    for kind in dict.fromkeys(config.pattern):
        kernels = layer_kind(config, kind).kernel_footprint(config, step.length)
        kept = 0.0 if shares_kernels(config, kind, step) else kernels.taps + kernels.between
        found[kind] = layer_kind(config, kind).footprint(config, step).plus(own + kept)
    return [found[kind] for kind in layer_kinds(config)]


def shared_kernels(config: BackboneSection, step: Pass) -> list[KernelFootprint]:
    """Of every layer, first to last, where they are made without a graph, and again for their gradients."""
    return [
        layer_kind(config, kind).kernel_footprint(config, step.length)
        if shares_kernels(config, kind, step)
        else NO_KERNELS
        for kind in layer_kinds(config)
    ]


def shares_kernels(config: BackboneSection, kind: LayerName, step: Pass) -> bool:
    """Whether the kernels of a kind have no graph."""
    count = layer_kinds(config).count(kind)
    return not (step.carries or keeps_graph(count, config.d_model, step.num_micro))


def norm_saved(kind: str, step: Pass, width: float) -> float:
    """Bytes that a norm keeps: input, and a number or two a position; batch norm, its moments' inputs too."""
    per_position = {"layer": 8.0, "rms": 4.0, "batch": 0.0, "none": 0.0}[kind] * step.positions
    return {"layer": 1.0, "rms": 2.0, "batch": 3.0, "none": 0.0}[kind] * width + per_position
