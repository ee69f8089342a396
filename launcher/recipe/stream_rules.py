"""Rules of truncated backpropagation through time: what can carry a state, and over what. Torch-free."""

from collections.abc import Iterator

from launcher.errors import Problem
from launcher.recipe.loaded import LoadedRecipe

OFF = "or turn train.truncated_bptt off"


def data_goes_on(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Only what is cut from one long stream goes on from window to window."""
    source = loaded.recipe.data.source
    if loaded.recipe.train.truncated_bptt and not source.is_stream:
        message = (
            f"{loaded.cite('train', 'truncated_bptt')} carries states from window to window, but the "
            f"sequences of {loaded.cite('data', 'source', 'type')} stand alone"
        )
        remedy = f"use a source of text or tokens, {OFF}"
        yield Problem(loaded.place("train", "truncated_bptt"), message, remedy)


def layers_have_bounded_states(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A state that grows along a stream ends in memory or in infinities."""
    model = loaded.recipe.model
    if not loaded.recipe.train.truncated_bptt:
        return
    carried = loaded.cite("train", "truncated_bptt")
    if "attention" in model.pattern:
        message = (
            f"{loaded.cite('model', 'pattern')} has attention, whose state is every past position, "
            f"but {carried}"
        )
        yield Problem(loaded.place("model", "pattern"), message, f"leave attention out, {OFF}")
    if "dss" in model.pattern and model.dss.version == "softmax":
        message = f"{loaded.cite('model', 'dss', 'version')} lets modes grow from step to step, but {carried}"
        yield Problem(loaded.place("model", "dss", "version"), message, f"use version exp, {OFF}")


STREAM_RULES = (data_goes_on, layers_have_bounded_states)
