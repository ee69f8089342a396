"""A transformer under GPT-NeoX's names is the same function, whatever factors its parametrisation has."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoXForCausalLM

from models.build_model import build_model
from models.config import LMConfig
from models.exported import save_tensors
from models.facts import Multipliers
from models.hugging_face import gpt_neox_config, gpt_neox_tensors, why_not_gpt_neox

BASE: dict[str, Any] = {
    "type": "lm",
    "vocab_size": 19,
    "d_model": 24,
    "num_layers": 4,
    "pattern": ("attention", "ffn"),
    "attention": {"d_head": 6},
}


@pytest.mark.parametrize(
    ("fields", "factors"),
    [
        ({}, {}),
        ({"tie_embeddings": True}, {"readout": 0.3, "embedding": 5.0}),
        ({"attention": {"d_head": None, "num_heads": 3, "scale": "sqrt"}}, {"attention": 0.5}),
        ({"residual": "completep", "residual_base": 2, "ffn": {"expand": 2}}, {"ffn": 1.7}),
        ({}, {"residual": ((1.0, 0.5), (1.0, 0.25), (1.0, 2.0), (1.0, 3.0)), "readout": 7.0}),
    ],
)
@torch.no_grad()
def test_logits_are_equal(tmp_path: Path, fields: dict[str, Any], factors: dict[str, Any]) -> None:
    config, multipliers = LMConfig.model_validate(BASE | fields, strict=False), Multipliers(**factors)
    assert why_not_gpt_neox(config, multipliers) is None
    ours, generator = build_model(config, multipliers).eval(), torch.Generator().manual_seed(1)
    for parameter in ours.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    # Through files, as everybody loads them: names in memory differ between versions of the library.
    (tmp_path / "config.json").write_text(json.dumps(gpt_neox_config(config, 50)))
    tensors = gpt_neox_tensors(config, multipliers, ours.state_dict())
    save_tensors(str(tmp_path / "model.safetensors"), tensors, {"format": "pt"})
    theirs, report = GPTNeoXForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    tokens_BL = torch.randint(0, 19, (2, 50), generator=generator)
    expected = ours(tokens_BL)
    # float32: both round every product, in another order
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(theirs.eval()(tokens_BL).logits, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("fields", "factors", "said"),
    [
        ({"pattern": ("attention",)}, {}, "its layers are attention, not"),
        ({"pattern": ("ffn", "attention")}, {}, "its layers are ffn, attention, not"),
        ({"norm": "rms"}, {}, "its norm is rms"),
        ({"prenorm": False}, {}, "after each branch"),
        ({"attention": {"d_head": 6, "rotary": False}}, {}, "knows no positions"),
        ({"layer_mix": "gated"}, {}, "a mix of all layers"),
        ({"encoder": {"type": "char-cnn"}}, {}, "reads tokens"),
        ({}, {"residual": ((0.5, 0.5),) * 4}, "u-muP scales"),
    ],
)
def test_other_models_are_refused_with_the_reason(
    fields: dict[str, Any], factors: dict[str, Any], said: str
) -> None:
    config = LMConfig.model_validate(BASE | fields, strict=False)
    assert said in (why_not_gpt_neox(config, Multipliers(**factors)) or "")
