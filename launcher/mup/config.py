"""muP section of a recipe. Torch-free."""

from typing import Literal

from models.section import Count, Positive, Section

DecayPolicy = Literal["constant", "independent", "sqrt"]


class MultiplierConfig(Section):
    """Factors on activations: numbers to tune at a small width, whose best values hold at every other one.

    They are constants in width (TP-V, arXiv 2203.03466, section 6 and table 2): at 1 nothing changes.
    """

    output: Positive = 1.0
    """On logits: mup's output_mult; of u-muP, the loss's softmax."""
    embedding: Positive = 1.0
    """On what the encoder gives."""
    attention: Positive = 1.0
    """On the logits of attention: an inverse temperature."""
    residual: Positive = 1.0
    """On every branch; of u-muP, its residual multiplier, which keeps the variance."""
    attention_ratio: Positive = 1.0
    """Of branches that mix positions to those of ffn; of u-muP only."""
    ssm: Positive = 1.0
    """On the outputs of state spaces s4, s4d and dss, before their gelu."""
    ffn: Positive = 1.0
    """a in ffn's gelu(a x) / a: from linear (small) to a hard bend (large)."""


class MupConfig(Section):
    """Parametrisation. `mup` scales from `base_width` or a base-shapes file; `sp` and `umup` need neither."""

    type: Literal["sp", "mup", "umup"]
    base_width: Count | None = None
    """d_model at which the recipe's rates were tuned: there mup equals sp bit for bit."""
    delta_width: Count | None = None
    """A second width, to see which dimensions grow; default 2 x base_width."""
    base_shapes: str | None = None
    """Base-shapes file to use instead of base_width."""
    weight_decay: DecayPolicy = "constant"
    """In width: lr x decay stays constant, decay itself does (independent), or decay grows as 1/sqrt(lr)."""
    multipliers: MultiplierConfig = MultiplierConfig()
    init_scale: Positive = 1.0
    """On the initial standard deviation of hidden matrices, at every width."""
