"""Rules between the schedule, the parametrisation and the rest of a recipe. Torch-free."""

import json
import math
from collections.abc import Iterator

from launcher.errors import Problem
from launcher.optim.config import PlateauConfig, SineRestartsConfig, WSDConfig
from launcher.recipe.loaded import LoadedRecipe


def wsd_decays_within_the_run(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Warmup, a stable part and the decay share the run's steps."""
    schedule, steps = loaded.recipe.schedule, loaded.recipe.train.steps
    if isinstance(schedule, WSDConfig) and schedule.warmup_steps + schedule.decay_steps > steps:
        message = (
            f"schedule.decay_steps = {schedule.decay_steps} and {loaded.cite('schedule', 'warmup_steps')} "
            f"are more than {loaded.cite('train', 'steps')}"
        )
        room = max(1, steps - schedule.warmup_steps)
        yield Problem(loaded.place("schedule", "decay_steps"), message, f"use {room} or less")


def sine_peaks_within_the_run(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Half a period takes it to its peak: a run that ends before never trains at the peak rate."""
    schedule, steps = loaded.recipe.schedule, loaded.recipe.train.steps
    if isinstance(schedule, SineRestartsConfig):
        left = steps - schedule.warmup_steps
        if left > 0 and schedule.period // 2 >= left:
            message = (
                f"schedule.period = {schedule.period} does not reach its middle, the peak, before "
                f"{loaded.cite('train', 'steps')}"
            )
            yield Problem(loaded.place("schedule", "period"), message, f"use {max(2, left)} or less")


def plateau_sees_evaluations(loaded: LoadedRecipe) -> Iterator[Problem]:
    """It acts on validation losses during the run."""
    train = loaded.recipe.train
    if not isinstance(loaded.recipe.schedule, PlateauConfig):
        return
    schedule = loaded.cite("schedule", "type")
    if train.validate_every is None:
        message = f"{schedule} acts on validation losses, but train.validate_every is null"
        yield Problem(loaded.place("schedule", "type"), message, "add train.validate_every")
    if train.validation_sequences == 0:
        message = f"{schedule} acts on validation losses, but {loaded.cite('train', 'validation_sequences')}"
        yield Problem(loaded.place("train", "validation_sequences"), message, "evaluate on some sequences")
    if loaded.recipe.data.validation_fraction == 0:
        message = f"{schedule} acts on validation losses, but {loaded.cite('data', 'validation_fraction')}"
        yield Problem(loaded.place("data", "validation_fraction"), message, "keep some files for validation")


def mup_scales_attention(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Where heads grow with the width, logits must be divided by d, not by its root (TP-V, appendix B.1)."""
    model = loaded.recipe.model
    if loaded.recipe.mup.type != "mup" or "attention" not in model.pattern:
        return
    if model.attention.num_heads is not None and model.attention.scale == "sqrt":
        message = (
            f"{loaded.cite('model', 'attention', 'scale')} divides by the root of a head's size, which grows "
            f"with {loaded.cite('model', 'attention', 'num_heads')} under {loaded.cite('mup', 'type')}"
        )
        yield Problem(
            loaded.place("model", "attention", "scale"),
            message,
            "use scale mup, or a fixed d_head with num_heads null",
        )


def mup_base_has_whole_groups(loaded: LoadedRecipe) -> Iterator[Problem]:
    """The models at the base and delta widths have the recipe's heads and groups, only fewer or more."""
    model, mup = loaded.recipe.model, loaded.recipe.mup
    if "ssd" not in model.pattern or mup.base_width is None:
        return
    size = model.ssd.d_head * model.ssd.heads_per_group
    for key, width in (("base_width", mup.base_width), ("delta_width", mup.delta_width)):
        if width is not None and model.ssd.expand * width % size:
            message = (
                f"{loaded.cite('mup', key)} x ssd.expand {model.ssd.expand} is no multiple of a group of "
                f"{loaded.cite('model', 'ssd', 'heads_per_group')} heads of {model.ssd.d_head}"
            )
            remedy = f"use a multiple of {size // math.gcd(size, model.ssd.expand)}, or smaller groups"
            yield Problem(loaded.place("mup", key), message, remedy)


_UMUP_LAYERS = ("attention", "ffn")
_UMUP_OPTIMIZERS = ("sgd", "adam", "adamw", "adagrad", "smorms3", "lion")
_UMUP_MODEL: tuple[tuple[str, object], ...] = (
    ("residual", "none"),
    ("prenorm", True),
    ("layer_mix", "none"),
    ("dropout", 0.0),
    ("embedding_dropout", 0.0),
    ("readout_dropout", 0.0),
    ("tie_embeddings", False),
    ("embedding_std", None),
    ("num_sequences", 1),
)


def umup_has_rules(loaded: LoadedRecipe) -> Iterator[Problem]:
    """u-muP is defined by constants of each operation: where there is none, nothing would have variance
    one."""
    recipe = loaded.recipe
    if recipe.mup.type != "umup":
        return
    parametrisation = loaded.cite("mup", "type")
    without = [kind for kind in dict.fromkeys(recipe.model.pattern) if kind not in _UMUP_LAYERS]
    if without:
        message = f"{parametrisation} knows no constants for layers of {', '.join(without)}"
        yield Problem(loaded.place("model", "pattern"), message, "use attention and ffn, or mup.type=mup")
    if recipe.model.encoder.type != "token":
        message = f"{parametrisation} knows no constants for {loaded.cite('model', 'encoder', 'type')}"
        yield Problem(loaded.place("model", "encoder", "type"), message, "use mup.type=mup")
    for key, value in _UMUP_MODEL:
        if key in type(recipe.model).model_fields and getattr(recipe.model, key) != value:
            shown = json.dumps(value)
            message = f"{parametrisation} knows no constants for {loaded.cite('model', key)}"
            yield Problem(loaded.place("model", key), message, f"use {shown}, or mup.type=mup")
    if recipe.optim.type not in _UMUP_OPTIMIZERS:
        message = f"{parametrisation} has no rates for {loaded.cite('optim', 'type')}"
        yield Problem(
            loaded.place("optim", "type"), message, f"use {', '.join(_UMUP_OPTIMIZERS)}, or mup.type=mup"
        )


RATE_RULES = (
    wsd_decays_within_the_run,
    sine_peaks_within_the_run,
    plateau_sees_evaluations,
    mup_scales_attention,
    mup_base_has_whole_groups,
    umup_has_rules,
)
