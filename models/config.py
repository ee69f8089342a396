"""Model sections of a recipe. Torch-free, so that a recipe is checked on a login node."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from models.added_layer import LayerRow
from models.section import Count, CountOrZero, Positive, Section, Size
from models.ssm.config import DSSConfig, S4Config, S4DConfig, SSMSection

LayerName = Literal["s4d", "s4", "dss", "attention", "momentum", "ssd", "ffn"]
KEEP_APART: frozenset[LayerName] = frozenset({"s4d", "s4", "dss", "attention", "ssd", "ffn"})
"""Kinds that can keep several documents of one row apart."""
Rate = Annotated[float, Field(ge=0, lt=1)]


class AttentionConfig(Section):
    """Softmax attention."""

    d_head: Count | None = 64
    """Channels per head; the number of heads grows with d_model."""
    num_heads: Count | None = None
    """Instead of d_head: a fixed number of heads, whose size grows with d_model."""
    scale: Literal["mup", "sqrt"] = "mup"
    """Factor on logits: 8/d_head, which is 1/sqrt(d_head) at 64, or 1/sqrt(d_head)."""
    query_zero_init: bool = False
    """Start with equal attention to all positions: logits of random queries would depend on the width (TP-V,
    arXiv 2203.03466, appendix D.2)."""
    rotary: bool = True
    """Turn queries and keys by their position (arXiv 2104.09864)."""
    causal: bool = True
    """A position sees itself and earlier ones only; false is for classifiers."""

    @model_validator(mode="after")
    def _one_way_to_count_heads(self) -> Self:
        if (self.d_head is None) == (self.num_heads is None):
            raise ValueError(
                f"d_head is {self.d_head} and num_heads {self.num_heads}; give one and set the other to null"
            )
        return self


class MomentumConfig(Section):
    """Linear attention with momentum (Momentum Transformer, arXiv 2208.00579)."""

    d_head: Count = 64
    """Channels per head; the number of heads grows with d_model."""
    momentum: Rate = 0.6
    """beta, the decay of the momentum."""
    step_size: Positive = 1.0
    """gamma."""


class SSDConfig(Section):
    """Mamba-2's layer (SSD, arXiv 2405.21060): a state space that depends on the input."""

    d_state: Count = 64
    """N, the numbers that a channel remembers, and the size of B and C."""
    d_head: Count = 64
    """Channels that share a step and a decay; the number of heads grows with d_model."""
    heads_per_group: Count = 4
    """Heads that share B and C; the number of groups grows with d_model."""
    expand: Count = 2
    """Channels of the state space as a multiple of d_model; a multiple of d_head x heads_per_group."""
    d_conv: Count = 4
    """Positions of the short convolution before it: the newest and d_conv - 1 earlier ones."""
    dt_min: Positive = 1e-3
    """Smallest initial step size; see dt_max."""
    dt_max: Positive = 1e-1
    """Steps of an average input are drawn log-uniformly from [dt_min, dt_max], one a head; decay rates from
    [1, 16], so that a head remembers 1/(16 dt) to 1/dt positions."""

    @model_validator(mode="after")
    def _dt_range(self) -> Self:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} is above dt_max {self.dt_max}")
        return self


class FFNConfig(Section):
    """Position-wise two-layer network."""

    expand: Count = 4
    """Hidden width as a multiple of d_model."""


class TokenEncoder(Section):
    """A learned vector per token."""

    type: Literal["token"]


class CharCNNEncoder(Section):
    """Words from their characters: largest values of convolutions (arXiv 1508.06615)."""

    type: Literal["char-cnn"]
    num_chars: Size = 257
    """Character ids are below this; 0 is padding."""
    d_char: Count = 15
    """Width of the vector of a character."""
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 3, 4, 5, 6)
    """Widths of the convolutions, with d_model filters each."""
    max_chars: Count = 16
    """Characters of a word that are read: inputs are (batch, words, max_chars)."""
    highway_layers: CountOrZero = 0
    """Highway layers over what the convolutions find (arXiv 1505.00387); Kim et al. use 1 or 2."""
    gate_bias: float = -2.0
    """Initial bias of their gates: negative, so that they start by carrying their input through."""


class LinearEncoder(Section):
    """A linear map of the numbers at each step of a continuous signal."""

    type: Literal["linear"]
    num_features: Count
    """Numbers at each step of the signal."""


TextEncoder = Annotated[TokenEncoder | CharCNNEncoder, Field(discriminator="type")]
AnyEncoder = Annotated[TokenEncoder | CharCNNEncoder | LinearEncoder, Field(discriminator="type")]


class BatchEntropyConfig(Section):
    """Layerwise batch entropy as a regularizer (arXiv 2208.01134): the training loss times 1 + mean_l weight
    (H_l - max(least_target, |a_l|))^2, with a_l learned. H_l is over all ranks' samples of a micro batch."""

    weight: Positive = 0.5
    """Of the squared distance to the target."""
    target: Positive = 0.5
    """Initial a_l."""
    least_target: Annotated[float, Field(ge=0)] = 0.5
    """Below it nothing is learned: a layer that says the same of all samples would be a target of its own."""


class SoftNeighboursConfig(Section):
    """Soft nearest neighbour loss (arXiv 1902.01889) of what the readout reads, over all ranks' samples of a
    micro batch, added to the training loss."""

    weight: Annotated[float, Field(allow_inf_nan=False)]
    """Positive draws classes apart; negative mixes them, as the paper does."""
    temperature: Positive = 1.0
    """Initial T, learned by its logarithm. Distances are means over channels, so it holds at any width."""


class BackboneSection(Section):
    """Abstract: what every model has between its input and its head."""

    added: ClassVar[Mapping[str, LayerRow]] = {}
    """Kinds of layers that extensions add."""
    type: str
    d_model: Count
    """Width: channels of the stream between layers. What muP scales."""
    num_layers: Annotated[int, Field(ge=1, le=10_000)]
    """Total residual layers; a multiple of the pattern's length."""
    pattern: Annotated[tuple[LayerName, ...], Field(min_length=1)] = ("s4d",)
    """Layer kinds, repeated over the depth."""
    s4d: S4DConfig = S4DConfig()
    s4: S4Config = S4Config()
    dss: DSSConfig = DSSConfig()
    attention: AttentionConfig = AttentionConfig()
    momentum: MomentumConfig = MomentumConfig()
    ssd: SSDConfig = SSDConfig()
    ffn: FFNConfig = FFNConfig()
    norm: Literal["layer", "rms", "batch", "none"] = "layer"
    """What normalises the stream: mean and variance (layer), size (rms), those of the batch, or nothing."""
    prenorm: bool = True
    """Normalise the input of each branch, and once after the last layer; else the sum after each branch."""
    residual: Literal["none", "depth_sqrt", "completep"] = "none"
    """Factor on each branch: 1, sqrt(b / num_layers) (Depth-muP, arXiv 2310.02244) or b / num_layers
    (CompleteP, arXiv 2505.01618) with b = residual_base."""
    residual_base: Count = 1
    """Depth at which the factor is 1."""
    layer_mix: Literal["none", "gated"] = "none"
    """gated: the head sees sum_l sigmoid(a_l) h_l over all layers' outputs, not the last one."""
    dropout: Rate = 0.0
    """Of activations inside state-space and ffn layers, and of every branch."""
    dropout_tied: bool = False
    """One mask a sequence for all positions."""
    embedding_dropout: Rate = 0.0
    """Of what the encoder gives."""
    readout_dropout: Rate = 0.0
    """Of what the readout reads."""
    batch_entropy: BatchEntropyConfig | None = None
    """Null for none."""

    @property
    def keeps_masks(self) -> bool:
        """Whether dropout keeps a mask of every activation for the backward pass."""
        return self.dropout > 0 and not self.dropout_tied

    @field_validator("pattern")
    @classmethod
    def _pattern_fits_depth(cls, pattern: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        depth = info.data.get("num_layers")
        if depth is not None and depth % len(pattern):
            fewer = depth // len(pattern) * len(pattern)
            nearest = f"{fewer} or {fewer + len(pattern)}" if fewer else f"{len(pattern)}"
            raise ValueError(
                f"num_layers {depth} is not a multiple of the pattern's length {len(pattern)}; "
                f"write {nearest}"
            )
        return pattern

    @field_validator("s4d", "s4", "dss")
    @classmethod
    def _copies_divide_width(cls, section: SSMSection, info: ValidationInfo) -> SSMSection:
        width = info.data.get("d_model")
        if width is None:
            return section
        copies = section.n_ssm if section.n_ssm is not None else width
        if width % copies:
            raise ValueError(f"n_ssm {copies} does not divide d_model {width}")
        if isinstance(section, S4Config | S4DConfig) and section.init in ("hippo", "diag") and copies % 2:
            raise ValueError(f"init {section.init} halves the copies of A, but there are {copies}")
        return section

    @model_validator(mode="after")
    def _added_layers_fit(self) -> Self:
        for kind, row in self.added.items():
            reason = row.misfit(getattr(self, kind, None), self.d_model) if kind in self.pattern else None
            if reason is not None:
                raise ValueError(f"{kind}.{reason}")
        return self

    def keeps_apart(self, kind: LayerName) -> bool:
        """Whether a kind can keep several documents of one row apart."""
        return self.added[kind].keeps_apart if kind in self.added else kind in KEEP_APART

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if "attention" in self.pattern:
            heads = self.attention.num_heads
            size = self.attention.d_head if heads is None else self.d_model // heads
            if size is None or size < 1 or self.d_model % (heads or size):
                given = f"d_head {size}" if heads is None else f"num_heads {heads}"
                raise ValueError(f"attention.{given} does not divide d_model {self.d_model}")
            if self.attention.rotary and size % 2:
                raise ValueError(f"attention.rotary turns pairs of channels, but a head has {size}")
        if "momentum" in self.pattern and self.d_model % self.momentum.d_head:
            raise ValueError(f"momentum.d_head {self.momentum.d_head} does not divide d_model {self.d_model}")
        ssd, d_inner = self.ssd, self.ssd.expand * self.d_model
        if "ssd" in self.pattern and d_inner % (ssd.d_head * ssd.heads_per_group):
            raise ValueError(
                f"ssd.d_head {ssd.d_head} x heads_per_group {ssd.heads_per_group} does not divide "
                f"expand {ssd.expand} x d_model {self.d_model}"
            )
        return self


INPUTS: dict[str, Literal["tokens", "words", "signals"]] = {
    "token": "tokens",
    "char-cnn": "words",
    "linear": "signals",
}
"""What each encoder reads."""


class LMConfig(BackboneSection):
    """Language model: encoder, residual layers, readout at every position."""

    type: Literal["lm"]
    vocab_size: Size
    """Token ids are below this."""
    encoder: TextEncoder = TokenEncoder(type="token")
    tie_embeddings: bool = False
    """Read out with the token embedding's own table."""
    embedding_std: Positive | None = None
    """Initial standard deviation of the token embedding; null is 1, or 0.02 where it also reads out."""
    readout_zero_init: bool = True
    """Start with a uniform guess; has no meaning with tie_embeddings."""
    norm: Literal["layer", "rms", "none"] = "layer"
    """Batch norm would let a position see later ones."""

    @field_validator("s4d", "s4", "dss")
    @classmethod
    def _no_look_ahead(cls, section: SSMSection) -> SSMSection:
        if section.bidirectional:
            raise ValueError("bidirectional is true, but a language model must not see later positions")
        return section

    @field_validator("attention")
    @classmethod
    def _attention_is_causal(cls, attention: AttentionConfig) -> AttentionConfig:
        if not attention.causal:
            raise ValueError("causal is false, but a language model must not see later positions")
        return attention

    @field_validator("tie_embeddings")
    @classmethod
    def _tie_what_there_is(cls, tie: bool, info: ValidationInfo) -> bool:
        encoder = info.data.get("encoder")
        if tie and encoder is not None and encoder.type != "token":
            raise ValueError(f"tie_embeddings is true, but encoder {encoder.type} has no table of tokens")
        return tie

    @property
    def inputs(self) -> Literal["tokens", "words", "signals"]:
        """What it reads at each position."""
        return INPUTS[self.encoder.type]

    @property
    def targets(self) -> Literal["tokens", "label"]:
        """What it predicts: a token at each position, or one label for the sequence."""
        return "tokens"


class ClassifierConfig(BackboneSection):
    """Sequence classifier: encoder, residual layers, pooling over valid positions, readout."""

    type: Literal["classifier"]
    num_classes: Size
    """Labels are below this."""
    vocab_size: Size | None = None
    """For encoder `token`."""
    encoder: AnyEncoder
    num_sequences: Literal[1, 2] = 1
    """2: a label is for two sequences, which the same layers encode and a hidden layer compares."""
    pool: Literal["mean", "last", "max"] = "mean"
    """One vector of all valid positions: mean, the last, or the largest of each channel."""
    readout_zero_init: bool = True
    """Start with a uniform guess."""
    soft_neighbours: SoftNeighboursConfig | None = None
    """Null for none."""

    @field_validator("encoder")
    @classmethod
    def _tokens_have_a_vocabulary(cls, encoder: AnyEncoder, info: ValidationInfo) -> AnyEncoder:
        size = info.data.get("vocab_size")
        if (encoder.type == "token") != (size is not None):
            raise ValueError(
                f"encoder is {encoder.type} and vocab_size {size}; only `token` has one, and needs it"
            )
        return encoder

    @property
    def inputs(self) -> Literal["tokens", "words", "signals"]:
        """What it reads at each position."""
        return INPUTS[self.encoder.type]

    @property
    def targets(self) -> Literal["tokens", "label"]:
        """What it predicts: a token at each position, or one label for the sequence."""
        return "label"


ModelConfig = Annotated[LMConfig | ClassifierConfig, Field(discriminator="type")]


def with_width(config: LMConfig | ClassifierConfig, d_model: int) -> LMConfig | ClassifierConfig:
    """Return the same model at another width; every width-like dimension scales with d_model."""
    return config.model_copy(update={"d_model": d_model})


def why_not_width(config: LMConfig | ClassifierConfig, d_model: int) -> str | None:
    """Why a model cannot have a width, such as heads that do not divide it; None where it can."""
    try:
        type(config).model_validate(config.model_dump() | {"d_model": d_model})
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return None


def max_chars(config: LMConfig | ClassifierConfig) -> int | None:
    """Characters that it reads of each word; None where it does not read words by their characters."""
    return config.encoder.max_chars if isinstance(config.encoder, CharCNNEncoder) else None


def sequences_per_sample(config: LMConfig | ClassifierConfig) -> int:
    """Sequences that each of its predictions is made from: 2 in a classifier of pairs."""
    return config.num_sequences if isinstance(config, ClassifierConfig) else 1


def branch_factor(config: BackboneSection) -> float:
    """The residual multiplier of every branch."""
    ratio = config.residual_base / config.num_layers
    return {"none": 1.0, "depth_sqrt": ratio**0.5, "completep": ratio}[config.residual]
