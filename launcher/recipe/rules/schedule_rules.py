"""Rules of learning rates: the schedule, and the rates of single tensors."""

from collections.abc import Iterator

from pydantic import BaseModel

from launcher.errors import Problem
from launcher.optim.config import PlateauConfig, SineRestartsConfig, TensorRate, WSDConfig
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.refuse import Rule, below, refuse


def warmup_ends_before_the_run(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`schedule.warmup_steps` is below `train.steps`."""
    remedy = "warm up for fewer steps, or train longer"
    return below(loaded, "schedule.warmup_steps", "train.steps", remedy)


def wsd_decays_within_the_run(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Warmup, a stable part and the decay of `wsd` fit into `train.steps`."""
    schedule, steps = loaded.recipe.schedule, loaded.recipe.train.steps
    if isinstance(schedule, WSDConfig) and schedule.warmup_steps + schedule.decay_steps > steps:
        message = "<schedule.decay_steps> and <schedule.warmup_steps> are more than <train.steps>"
        room = max(1, steps - schedule.warmup_steps)
        yield refuse(loaded, "schedule.decay_steps", message, f"use {room} or less")


def sine_peaks_within_the_run(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`sine_restarts` reaches its peak rate after half a period, and the run is longer than that."""
    schedule = loaded.recipe.schedule
    if isinstance(schedule, SineRestartsConfig):
        # The rate rises during the first half of a period. With period 1000 and 400 steps after warmup,
        # training would end before step 500, and never reach the recipe's rate.
        left = loaded.recipe.train.steps - schedule.warmup_steps
        if left > 0 and schedule.period // 2 >= left:
            message = "<schedule.period> does not reach its middle, the peak, before <train.steps>"
            yield refuse(loaded, "schedule.period", message, f"use {max(2, left)} or less")


def plateau_sees_validation(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`plateau` acts on validation losses, so validation runs during training."""
    if not isinstance(loaded.recipe.schedule, PlateauConfig):
        return
    for key, none, remedy in (
        ("train.validate_every", None, "add train.validate_every"),
        ("train.validation_sequences", 0, "validate on some sequences"),
        ("data.validation_fraction", 0, "keep some files for validation"),
    ):
        if loaded.value(key) == none:
            yield refuse(loaded, key, f"<schedule.type> acts on validation losses, but <{key}>", remedy)


def one_rate_per_tensor(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A kind of tensor has `lr` or `lr_mult`, not both."""
    for key, section in _sections(loaded.recipe):
        if isinstance(section, TensorRate) and section.lr is not None and section.lr_mult != 1.0:
            message = f"<{key}.lr> and <{key}.lr_mult> are two rates for one tensor"
            yield refuse(loaded, f"{key}.lr_mult", message, "keep lr, or lr_mult")


def _sections(section: BaseModel, key: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Every section of a recipe with its key, outermost first."""
    yield key, section
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), BaseModel):
            yield from _sections(inner, f"{key}.{name}".lstrip("."))


SCHEDULE_RULES = (
    Rule("warmup-in-run", warmup_ends_before_the_run),
    Rule("wsd-decay-in-run", wsd_decays_within_the_run),
    Rule("sine-peak-in-run", sine_peaks_within_the_run),
    Rule("plateau-needs-validation", plateau_sees_validation),
    Rule("one-rate-per-tensor", one_rate_per_tensor),
)
