"""Shared by the model tests: initialise a module from its facts, as the launcher does."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from models.facts import ParamFacts, match_facts

Fill = Callable[[nn.Module, Mapping[str, ParamFacts]], nn.Module]


@pytest.fixture
def fill() -> Fill:
    """Give every parameter its initial value."""

    def apply(module: nn.Module, patterns: Mapping[str, ParamFacts]) -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, fact in match_facts(parameters, patterns).items():
                parameters[name].copy_(fact.init(parameters[name].shape, generator))
        return module

    return apply
