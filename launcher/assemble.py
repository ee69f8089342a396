"""From a plan to an engine: the model under its parametrisation, sharded, initialised, taken over."""

import torch
from torch import nn

from launcher.mup.init import init_parameters
from launcher.parallel.build_engine import build_engine
from launcher.parallel.engine import Engine
from launcher.plan.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.world import World
from models.build_model import build_model


def open_engine(recipe: Recipe, plan: Plan, world: World) -> tuple[nn.Module, Engine]:
    """The model of a recipe with its initial values, and the engine that now owns its training."""
    parameters = plan.parameters
    with torch.device("meta"):
        model = build_model(recipe.model, parameters.multipliers)
    scales = {name: scaling.init for name, scaling in parameters.scalings.items()}
    engine = build_engine(
        model,
        config=recipe.parallel,
        optim=recipe.optim,
        groups=parameters.groups,
        initialise=lambda model: init_parameters(model, parameters.facts, scales, recipe.seed),
        batch=plan.batch,
        shard_size=plan.shard_size,
        carries=recipe.train.truncated_bptt,
        world=world,
    )
    return model, engine
