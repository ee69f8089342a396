"""What a layer costs, counted without a model: FLOPs as torch counts them, bytes as autograd keeps them."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.build_model import build_model
from models.config import LMConfig
from models.facts import Multipliers
from models.footprint import Pass
from models.layer_table import LAYERS
from models.layers import Linear
from models.residual import layer_footprints
from models.ssm.ssm_mixer import mixer_flops, mixer_matrix_flops

# Lengths and sizes of states beside those that the formulas were written on.
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("ffn", 64, {"ffn": {"expand": 3}}),
    ("attention", 192, {}),
    ("attention", 96, {"attention": {"d_head": 32, "rotary": False}}),
    ("s4d", 256, {}),
    ("s4d", 200, {"s4d": {"d_state": 16, "channels": 2}}),
    ("s4d", 128, {"s4d": {"gate": True}}),
    ("s4d", 128, {"s4d": {"final_act": "gelu"}}),
    ("s4", 256, {}),
    ("s4", 1000, {"s4": {"d_state": 16}}),
    ("s4", 2048, {"s4": {"d_state": 32}}),
    ("s4", 512, {"s4": {"d_state": 64, "rank": 2}}),
    ("dss", 300, {"dss": {"d_state": 24}}),
    ("ssd", 256, {}),
    ("ssd", 448, {"ssd": {"d_state": 16, "heads_per_group": 2, "d_head": 32}}),
    ("momentum", 256, {}),
    ("momentum", 320, {"momentum": {"d_head": 32}}),
]


def config_of(kind: str, sections: dict[str, Any], **others: Any) -> LMConfig:
    model = {"type": "lm", "d_model": 128, "num_layers": 1, "pattern": (kind,), "vocab_size": 32}
    return LMConfig.model_validate(model | sections | others)


def layer_of(config: LMConfig) -> torch.nn.Module:
    model = build_model(config, Multipliers())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    return model.get_submodule("layers.0")


def matrix_flops(config: LMConfig, kind: str, sequences: int, length: int) -> float:
    """Of matrix products alone: torch's counter knows no FFT, and counts every pair of positions."""
    table, total = LAYERS[kind], 0.0  # type: ignore[index]
    if kind in ("s4d", "s4", "dss"):
        section = getattr(config, kind)
        total = mixer_matrix_flops(section, config.d_model)
        assert total < mixer_flops(section, config.d_model, length)
    elif kind == "attention":
        total = table.flops(config, 2 * length - 1)  # (2 L - 1 + 1) / 2 is L: as if not causal
    else:
        total = table.flops(config, length)
    return sequences * length * total + table.kernel_flops(config, length)


@pytest.mark.parametrize(("kind", "length", "sections"), CASES, ids=str)
def test_flops_are_those_that_torch_counts(kind: str, length: int, sections: dict[str, Any]) -> None:
    config = config_of(kind, sections)
    layer = layer_of(config)
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        layer(torch.randn(3, length, config.d_model))
    # What the formulas leave out: products with a few rows (a state space's rank, sums between chunks), and
    # in ssd the convolution of d_conv taps, which is none of matrices.
    expected = matrix_flops(config, kind, 3, length)
    if kind == "ssd":
        ssd = config.ssd
        keys = ssd.expand * config.d_model // ssd.d_head // ssd.heads_per_group * ssd.d_state
        expected -= 3 * length * 2 * ssd.d_conv * (ssd.expand * config.d_model + 2 * keys)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def kept_bytes(layer: torch.nn.Module, x_BLH: torch.Tensor, *, half: bool) -> int:
    """Bytes of all memory that autograd keeps, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        result = layer(x_BLH)
    assert result.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "length", "sections"), CASES, ids=str)
def test_bytes_are_those_that_autograd_keeps(
    kind: str, length: int, sections: dict[str, Any], half: bool
) -> None:
    config = config_of(kind, sections)
    x_BLH = torch.randn(3, length, config.d_model).requires_grad_()
    (expected,) = layer_footprints(config, Pass(sequences=3, length=length, half=half))
    # Small numbers that are not counted; in momentum, which of its chunks' tensors are copies.
    limit = {"momentum": 0.05, "s4": 0.01, "ssd": 0.005}.get(kind, 0.001)
    assert kept_bytes(layer_of(config), x_BLH, half=half) == pytest.approx(expected.saved, rel=limit)


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["ffn", "s4d"])
def test_norms_and_masks_are_counted(kind: str, dropout: float, norm: str) -> None:
    config = config_of(kind, {}, norm=norm, dropout=dropout)
    x_BLH = torch.randn(2, 64, config.d_model).requires_grad_()
    (expected,) = layer_footprints(config, Pass(sequences=2, length=64))
    assert kept_bytes(layer_of(config), x_BLH, half=False) == pytest.approx(expected.saved, rel=0.001)


def test_rounded_weights_are_kept_once_whatever_the_batch() -> None:
    config = config_of("s4d", {})
    layer = layer_of(config)
    assert sum(isinstance(module, Linear) for module in layer.modules()) == 1
    few, many = (
        kept_bytes(layer, torch.randn(batch, 32, config.d_model).requires_grad_(), half=True)
        for batch in (1, 9)
    )
    per_sequence = (many - few) / 8
    kernel_and_weights = few - per_sequence
    matrix = 2 * 2 * config.d_model**2
    tables = 8 * config.d_model * (32 * 28 + 2) + 4 * config.d_model * 32
    assert kernel_and_weights == matrix + tables
