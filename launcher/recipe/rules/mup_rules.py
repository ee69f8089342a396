"""Rules of the parametrization."""

import itertools
from collections.abc import Iterator

from launcher.errors import Problem
from launcher.optim.optimizer_table import OPTIMIZERS, optimizer_kind
from launcher.recipe.loaded import LoadedRecipe, as_written
from launcher.recipe.rules.refuse import Rule, only_for, refuse
from models.config import why_not_width

# The layers and options for which u-muP has constants (arXiv 2407.17465). At any other value, the scale of
# some operation would be unknown, and with it every rate above it.
_UMUP_LAYERS = ("attention", "ffn")
_UMUP_MODEL: tuple[tuple[str, object], ...] = (
    ("encoder.type", "token"),
    ("residual", "none"),
    ("prenorm", True),
    ("layer_mix", "none"),
    ("dropout", 0.0),
    ("embedding_dropout", 0.0),
    ("readout_dropout", 0.0),
    ("tie_embeddings", False),
    ("embedding_std", None),
    ("num_sequences", 1),
    ("attention.query_zero_init", False),
)

_MULTIPLIED = {
    "attention": {"attention"},
    "attention_ratio": {"attention"},
    "ssm": {"s4", "s4d", "dss"},
    "ffn": {"ffn"},
}
"""Layers of each multiplier. `ssd` has a norm right after its state space, where a factor would be lost."""


def bases_are_for_mup(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`mup.base_width`, `mup.delta_width` and `mup.base_shapes` are only for `mup.type: mup`."""
    for key in ("mup.base_width", "mup.delta_width", "mup.base_shapes"):
        yield from only_for(loaded, key, "mup.type", ["mup"], "remove it, or use type mup")


def tuned_values_are_kept(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`check.tuned` needs `provenance`, whose values are those of the recipe."""
    recipe = loaded.recipe
    if not recipe.check.tuned:
        return
    if recipe.provenance is None:
        message = "<check.tuned> needs provenance, which says where the values were tuned"
        yield refuse(loaded, "check.tuned", message, "write the recipe with `launch sweep RECIPE ... --best`")
        return
    for key, value in recipe.provenance.values.items():
        try:
            now = loaded.value(key)
        except (AttributeError, KeyError, IndexError, TypeError):
            now = None
        if now != value:
            message = f"<check.tuned>, but {key} is {as_written(now)}, and {as_written(value)} was tuned"
            yield refuse(loaded, key, message, f"use {as_written(value)}, or tune again")


def mup_has_a_base(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`mup.type: mup` needs the width at which the rates were tuned."""
    mup = loaded.recipe.mup
    if mup.type == "mup" and mup.base_width is None and mup.base_shapes is None:
        message = "<mup.type> needs the width at which the rates were tuned"
        yield refuse(loaded, "mup", message, "add mup.base_width, or mup.base_shapes with a file")


def mup_has_one_base(loaded: LoadedRecipe) -> Iterator[Problem]:
    """The base is given by widths or by a file, not by both."""
    mup = loaded.recipe.mup
    for key in ("mup.base_width", "mup.delta_width"):
        if mup.type == "mup" and mup.base_shapes is not None and loaded.value(key) is not None:
            message = f"<{key}> and <mup.base_shapes> are two bases"
            yield refuse(loaded, key, message, "keep one of the two")


def base_and_delta_differ(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`mup.delta_width` differs from the base width: dimensions grow if they differ between the two."""
    mup = loaded.recipe.mup
    if mup.type == "mup" and mup.delta_width is not None and mup.delta_width == mup.base_width:
        remedy = "use another width, or leave it out for the double"
        yield refuse(loaded, "mup.delta_width", "<mup.delta_width> equals <mup.base_width>", remedy)


def mup_scales_attention(loaded: LoadedRecipe) -> Iterator[Problem]:
    """If heads grow with the width, logits are divided by d, not by its root (TP-V, appendix B.1)."""
    model, key = loaded.recipe.model, "model.attention.scale"
    if loaded.recipe.mup.type != "mup" or "attention" not in model.pattern:
        return
    # With num_heads fixed, d_head grows with the width. After training has aligned queries and keys, q.k
    # grows like d_head and not like its root: at 4 times the width, logits / sqrt(d_head) would double.
    if model.attention.num_heads is not None and model.attention.scale == "sqrt":
        message = (
            f"<{key}> divides by the root of a head's size, which grows with <model.attention.num_heads> "
            "under <mup.type>"
        )
        yield refuse(loaded, key, message, "use scale mup, or a fixed d_head with num_heads null")


def model_can_have_its_base_widths(loaded: LoadedRecipe) -> Iterator[Problem]:
    """The base and delta widths are possible for the model: heads, groups and copies divide them."""
    model = loaded.recipe.model
    for key in ("mup.base_width", "mup.delta_width"):
        width = loaded.value(key)
        if loaded.recipe.mup.type != "mup" or width is None:
            continue
        if (reason := why_not_width(model, width)) is not None:
            # The search ends: every multiple of the recipe's own width is a width of this model.
            above = next(wider for wider in itertools.count(width) if why_not_width(model, wider) is None)
            yield refuse(loaded, key, f"<{key}> is not a width of this model: {reason}", f"use {above}")


def factors_have_something_to_multiply(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A multiplier other than 1 is for layers that the model has."""
    pattern = loaded.recipe.model.pattern
    for key, kinds in _MULTIPLIED.items():
        value = getattr(loaded.recipe.mup.multipliers, key)
        if value != 1.0 and not kinds.intersection(pattern):
            full, names = f"mup.multipliers.{key}", " or ".join(sorted(kinds))
            message = f"<{full}> is for layers of {names}, but <model.pattern> has none"
            yield refuse(loaded, full, message, "remove it")


def umup_has_its_own_multipliers(loaded: LoadedRecipe) -> Iterator[Problem]:
    """u-muP has no embedding multiplier and no init scale; attention_ratio is u-muP's alone."""
    unit = loaded.recipe.mup.type == "umup"
    refused = (
        ("mup.multipliers.embedding", "mup.init_scale") if unit else ("mup.multipliers.attention_ratio",)
    )
    for key in refused:
        if loaded.value(key) != 1.0:
            message = f"<{key}> has no meaning under <mup.type>"
            remedy = (
                "use mup.multipliers.residual" if unit else "use mup.multipliers.residual, or mup.type umup"
            )
            yield refuse(loaded, key, message, remedy)


def umup_knows_the_layers(loaded: LoadedRecipe) -> Iterator[Problem]:
    """u-muP is defined by constants for each operation; state-space layers have none."""
    pattern = dict.fromkeys(loaded.recipe.model.pattern)
    unknown = [kind for kind in pattern if kind not in _UMUP_LAYERS]
    if loaded.recipe.mup.type == "umup" and unknown:
        message = f"<mup.type> has no constants for layers of {', '.join(unknown)}"
        yield refuse(loaded, "model.pattern", message, "use attention and ffn, or mup.type=mup")


def umup_knows_the_model(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Outside of the layers, too, only operations are used for which u-muP has constants."""
    model = loaded.recipe.model
    if loaded.recipe.mup.type != "umup":
        return
    for name, value in _UMUP_MODEL:
        key = f"model.{name}"
        if name.partition(".")[0] in type(model).model_fields and loaded.value(key) != value:
            message = f"<mup.type> has no constants for <{key}>"
            yield refuse(loaded, key, message, f"use {as_written(value)}, or mup.type=mup")


def umup_knows_the_optimizer(loaded: LoadedRecipe) -> Iterator[Problem]:
    """u-muP has learning rates only for elementwise optimizers."""
    if loaded.recipe.mup.type == "umup" and not optimizer_kind(loaded.recipe.optim).umup:
        known = [name for name, kind in OPTIMIZERS.items() if kind.umup]
        remedy = f"use {', '.join(known)}, or mup.type=mup"
        yield refuse(loaded, "optim.type", "<mup.type> has no rates for <optim.type>", remedy)


MUP_RULES = (
    Rule("base-is-mup", bases_are_for_mup),
    Rule("mup-needs-base", mup_has_a_base),
    Rule("one-base", mup_has_one_base),
    Rule("delta-differs", base_and_delta_differ),
    Rule("mup-attention-scale", mup_scales_attention),
    Rule("base-fits-model", model_can_have_its_base_widths),
    Rule("umup-layers", umup_knows_the_layers),
    Rule("umup-model", umup_knows_the_model),
    Rule("umup-optimizers", umup_knows_the_optimizer),
    Rule("multiplier-layers", factors_have_something_to_multiply),
    Rule("umup-multipliers", umup_has_its_own_multipliers),
    Rule("tuned-values-are-kept", tuned_values_are_kept),
)
