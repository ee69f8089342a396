"""The door to this room: a config in, a module, its parameter facts and its cost out."""

import torch

from models.config import ModelConfig
from models.facts import Multipliers, ParamFacts
from models.lm import LM, lm_facts, lm_flops_per_token


def build_model(config: ModelConfig, multipliers: Multipliers | None = None) -> torch.nn.Module:
    """Allocate the model on the default device; its values are undefined until initialised from facts."""
    return LM(config, multipliers or Multipliers())


def model_facts(config: ModelConfig) -> dict[str, ParamFacts]:
    """Facts by name pattern; each parameter of `build_model(config)` matches exactly one."""
    return lm_facts(config)


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Training FLOPs per token: backward costs twice the forward pass (arXiv 2001.08361, section 2.1)."""
    return 3.0 * lm_flops_per_token(config, seq_len)
