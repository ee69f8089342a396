"""Rules of what is tracked."""

from collections.abc import Iterator
from importlib.util import find_spec

from launcher.errors import Problem
from launcher.optim.config import AdamConfig, AdamWConfig, SGDConfig
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.refuse import Rule, refuse


def viewers_are_installed(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`track.tensorboard` and `track.wandb` need the package of that name."""
    for name in ("tensorboard", "wandb"):
        if loaded.value(f"track.{name}") is not None and find_spec(name) is None:
            message = f"<track.{name}>, but the package is not installed here"
            yield refuse(loaded, f"track.{name}", message, f"pip install {name}, or remove it")


def a_stored_report_needs_mlflow(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`track.mlflow.report` stores a page in MLflow, which must be enabled."""
    if loaded.recipe.track.mlflow.report and not loaded.recipe.track.mlflow.enabled:
        message = "<track.mlflow.report>, and <track.mlflow.enabled>"
        yield refuse(loaded, "track.mlflow.report", message, "enable it, or call launch report after the run")


def tensorboard_has_a_local_folder(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`track.tensorboard` is a local folder: its files are appended to."""
    if (folder := loaded.recipe.track.tensorboard) is not None and "://" in folder:
        remedy = "give a path; MLflow and journal are what a remote run keeps"
        yield refuse(loaded, "track.tensorboard", "<track.tensorboard> is not a local folder", remedy)


def diagnosis_comes_with_validation(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`track.diagnosis` is measured with every validation, so there must be some."""
    recipe = loaded.recipe
    if recipe.track.diagnosis is not None and recipe.train.validate_every is None:
        message = "<track.diagnosis>, and <train.validate_every> is null"
        yield refuse(loaded, "track.diagnosis", message, "give train.validate_every, which is how often")


def a_step_follows_those_traced(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`track.trace` ends before the last step, at whose begin it is written."""
    trace, steps = loaded.recipe.track.trace, loaded.recipe.train.steps
    if trace is not None and trace.from_step + trace.steps > steps:
        message = f"ends with step {trace.from_step + trace.steps - 1}, of <train.steps>"
        yield refuse(loaded, "track.trace", message, "trace earlier or fewer steps, or train one more")


def sharpness_can_be_measured(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`track.diagnosis.sharpness` needs the torch engine, and an optimizer whose edge is known."""
    recipe = loaded.recipe
    if recipe.track.diagnosis is None or not recipe.track.diagnosis.sharpness:
        return
    place, remedy = "track.diagnosis.sharpness", "turn it off"
    if recipe.parallel.engine != "torch":
        message = "<track.diagnosis.sharpness>, and <parallel.engine> has gradients only inside a step"
        yield refuse(loaded, place, message, f"{remedy}, or use parallel.engine=torch")
    if not (isinstance(recipe.optim, AdamConfig | AdamWConfig | SGDConfig)) or _looks_ahead(recipe.optim):
        message = "<track.diagnosis.sharpness>, and where <optim.type> becomes unstable is not known"
        yield refuse(loaded, place, message, f"{remedy}, or use adamw, adam, or sgd without nesterov")


def _looks_ahead(config: AdamConfig | AdamWConfig | SGDConfig) -> bool:
    return isinstance(config, SGDConfig) and config.nesterov


TRACK_RULES = (
    Rule("viewers-installed", viewers_are_installed),
    Rule("tensorboard-is-local", tensorboard_has_a_local_folder),
    Rule("report-needs-mlflow", a_stored_report_needs_mlflow),
    Rule("diagnosis-with-validation", diagnosis_comes_with_validation),
    Rule("sharpness-is-measurable", sharpness_can_be_measured),
    Rule("step-after-trace", a_step_follows_those_traced),
)
