"""Load a checkpoint into live tensors, or into a whole model after training."""

from collections.abc import Mapping

import torch
from torch import nn

from launcher import files
from launcher.checkpoint.catalog import Saved
from launcher.checkpoint.identity import check_identity
from launcher.checkpoint.storage import read_shapes, read_tensors
from launcher.errors import Problem, UserError
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import read_frozen
from launcher.recipe.schema import Recipe
from models.build_model import build_model


def restore_tensors(url: str, tensors: Mapping[str, torch.Tensor], only: tuple[str, ...] = ("",)) -> None:
    """Load live tensors, however sharded, from a checkpoint. Raises UserError if names or shapes differ.

    `only` those whose names begin with one of these.
    """
    # Compared before DCP reads anything: DCP ignores tensors that the checkpoint has and the run has not, and
    # stops at the first missing one with an error of its own. Shapes are those of whole tensors, so that the
    # sharding on either side does not matter.
    index = {name: shape for name, shape in read_shapes(url).items() if name.startswith(only)}
    tensors = {name: value for name, value in tensors.items() if name.startswith(only)}
    # Checkpoints of before the guard lack its counters, and its window comes and goes with a recipe's key.
    tensors = {
        name: value
        for name, value in tensors.items()
        if not is_optional(name) or index.get(name) == tuple(value.shape)
    }
    index = {name: shape for name, shape in index.items() if name in tensors or not is_optional(name)}
    problems = [
        Problem(files.join(url, name), "is in the checkpoint but not in this run", "see RUN/recipe.yaml")
        for name in index
        if name not in tensors
    ]
    for name, tensor in tensors.items():
        if name not in index:
            problems.append(Problem(name, f"is not in {url}", "see RUN/recipe.yaml"))
        elif index[name] != tuple(tensor.shape):
            message = f"has shape {index[name]} in {url}, {tuple(tensor.shape)} in this run"
            problems.append(Problem(name, message, "see RUN/recipe.yaml"))
    if problems:
        raise UserError(*problems[:10])
    read_tensors(url, tensors)


def is_optional(name: str) -> bool:
    """Whether a run can do without what a checkpoint holds under this name, and starts it from nothing."""
    return name.startswith("guard/")


def saved_recipe(saved: Saved) -> Recipe:
    """The recipe that a checkpoint was trained with."""
    return read_frozen(saved.manifest.recipe, saved.url).recipe


def load_model(saved: Saved, device: torch.device) -> nn.Module:
    """Build the whole model of a checkpoint on one process, however it was sharded, and load its weights.

    Optimizer moments are not read. Raises UserError if names differ.
    """
    recipe = saved_recipe(saved)
    parameters = make_plan(recipe, planned_ranks(recipe)).parameters
    check_identity(saved, parameters)
    with torch.device("meta"):
        model = build_model(recipe.model, parameters.multipliers)
    model = model.to_empty(device=device)
    tensors = {f"model/{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in model.named_buffers()}
    missing = sorted(set(tensors) - set(read_shapes(saved.url)))
    if missing:
        message = f"does not hold {', '.join(missing[:3])}"
        raise UserError(Problem(files.shortest(saved.url), message, "use the version that trained it"))
    read_tensors(saved.url, tensors)
    return model.eval()
