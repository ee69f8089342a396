"""A trained model as one file, and back, with plain torch: the door to safetensors.

    from models.exported import load_export
    model = load_export("model.safetensors")     # eval mode, float32, on the CPU
    logits_BLV = model(tokens_BL)

The file's header has the model's section of the recipe and its forward multipliers; the rest are tensors.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from models.build_model import build_model
from models.config import ClassifierConfig, LMConfig, ModelConfig
from models.facts import Multipliers


def save_export(
    path: str,
    config: LMConfig | ClassifierConfig,
    multipliers: Multipliers,
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Write parameters and buffers by name."""
    header = {
        "model": config.model_dump_json(),
        "multipliers": json.dumps(asdict(multipliers)),
    }
    save_tensors(path, tensors, header)


def save_tensors(path: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> None:
    """Write tensors by name, as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(header))


def load_export(path: str) -> nn.Module:
    """The model in an exported file. Raises KeyError or ValueError for a file that is not one."""
    with safe_open(path, framework="pt") as stored:
        header = stored.metadata() or {}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    config: LMConfig | ClassifierConfig = TypeAdapter(ModelConfig).validate_json(header["model"])
    factors = json.loads(header["multipliers"])
    residual = factors["residual"] and tuple((skip, branch) for skip, branch in factors["residual"])
    model = build_model(config, Multipliers(**factors | {"residual": residual}))
    model.load_state_dict(tensors)
    return model.eval()
