"""Tiny recipes, and breaks of the rules planted in their plans."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import launcher.plan.plan as plan_module
from launcher.mup.config import MupConfig
from launcher.mup.scaling import Scaling
from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group, make_groups
from launcher.plan.parameters import Parameters, describe_parameters
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe
from models.config import ModelConfig
from models.facts import Multipliers

ROOT = Path(__file__).parents[3]
SINGLE = ("parallel.strategy=single", "cluster.nproc_per_node=1")
Change = Callable[[Scaling, float], Scaling]
"""From the right scaling of a parameter and its growth in width to another."""


def tiny(name: str, *overrides: str) -> Recipe:
    return load_recipe(str(ROOT / "recipes" / f"{name}-lm-tiny.yaml"), [*overrides, *SINGLE]).recipe


def plant(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Change | None = None,
    groups: Callable[[Group], Group] = lambda group: group,
    multipliers: Multipliers | None = None,
) -> None:
    """Plan as usual, then change what matches: scalings, or what the optimizer is given."""

    def describe(model: ModelConfig, mup: MupConfig, optim: OptimConfig, *, seq_len: int) -> Parameters:
        right = describe_parameters(model, mup, optim, seq_len=seq_len)
        scalings = {
            found: change(
                scaling, max(right.width_multipliers[found].fan_in, right.width_multipliers[found].fan_out)
            )
            if change is not None and re.fullmatch(name, found)
            else scaling
            for found, scaling in right.scalings.items()
        }
        assert change is None or scalings != right.scalings or model.d_model == mup.base_width, name
        made = tuple(map(groups, make_groups(right.facts, right.shapes, scalings, optim)))
        return dataclasses.replace(
            right, scalings=scalings, groups=made, multipliers=multipliers or right.multipliers
        )

    monkeypatch.setattr(plan_module, "describe_parameters", describe)


def scaled(**changes: Callable[[float, float], float]) -> Change:
    """Fields of a scaling, from their right value and the growth."""
    return lambda scaling, g: dataclasses.replace(
        scaling, **{key: make(getattr(scaling, key), g) for key, make in changes.items()}
    )
