"""A checkpoint's model, whole, on one process, whatever sharded it: for use after training."""

import torch
from torch import nn

from launcher import files
from launcher.checkpoint.manifest import Saved
from launcher.checkpoint.restore import check_identity
from launcher.checkpoint.storage import read_shapes, read_tensors
from launcher.errors import Problem, UserError
from launcher.plan.plan import make_plan
from launcher.plan.plan_record import scaling_records
from launcher.recipe.compile import read_frozen
from launcher.recipe.schema import Recipe
from models.build_model import build_model


def saved_recipe(saved: Saved) -> Recipe:
    """The recipe that a checkpoint was trained by."""
    return read_frozen(str(saved.manifest["recipe"]), saved.url).recipe


def load_model(saved: Saved, device: torch.device) -> nn.Module:
    """Build the model of a checkpoint and fill it; moments are not read. Raises UserError if names differ."""
    recipe = saved_recipe(saved)
    parameters = make_plan(recipe).parameters
    check_identity(saved, parameters.base_shapes, parameters.base_shapes_hash, scaling_records(parameters))
    with torch.device("meta"):
        model = build_model(recipe.model, parameters.multipliers)
    model = model.to_empty(device=device)
    tensors = {f"model/{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in model.named_buffers()}
    missing = sorted(set(tensors) - set(read_shapes(saved.url)))
    if missing:
        message = f"has no {', '.join(missing[:3])}"
        raise UserError(Problem(files.shortest(saved.url), message, "use the version that trained it"))
    read_tensors(saved.url, tensors)
    return model.eval()
