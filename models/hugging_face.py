"""A trained transformer as Hugging Face's GPTNeoXForCausalLM: the same function, in its names.

Factors of a parametrisation have no place there, so they are multiplied into weights.
"""

import math
from collections.abc import Mapping

import torch

from models.attention import ROTARY_BASE, count_heads, logit_scale
from models.config import BackboneSection, ClassifierConfig, LMConfig
from models.facts import Multipliers
from models.residual import layer_factors

Tensors = Mapping[str, torch.Tensor]
_BLOCK = ("attention", "ffn")


def why_not_gpt_neox(config: LMConfig | ClassifierConfig, multipliers: Multipliers) -> str | None:
    """Why GPT-NeoX is not the same function as this model; None where it is."""
    if not isinstance(config, LMConfig) or config.encoder.type != "token":
        return "it is not a language model that reads tokens"
    if config.pattern != _BLOCK * (len(config.pattern) // 2):
        return f"its layers are {', '.join(config.pattern)}, not attention, ffn in turn"
    if config.norm != "layer":
        return f"its norm is {config.norm}, not layer"
    if not config.prenorm:
        return "it normalises after each branch (prenorm)"
    if not config.attention.rotary:
        return "its attention knows no positions (attention.rotary)"
    if config.layer_mix != "none":
        return "it reads out a mix of all layers (layer_mix)"
    if any(skip != 1.0 for skip, _ in layer_factors(config, multipliers)):
        return "u-muP scales what passes by a layer"
    return None


def gpt_neox_config(config: LMConfig, max_length: int) -> dict[str, object]:
    """The content of config.json. `max_length`: positions that it was trained on."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers // 2,
        "num_attention_heads": count_heads(config.attention, config.d_model),
        "intermediate_size": config.ffn.expand * config.d_model,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": False,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "rotary_pct": 1.0,
        "rotary_emb_base": ROTARY_BASE,
        "max_position_embeddings": max_length,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


def gpt_neox_tensors(config: LMConfig, multipliers: Multipliers, tensors: Tensors) -> dict[str, torch.Tensor]:
    """The weights under GPT-NeoX's names, with all factors in them. Raises KeyError for another model's."""
    embedding = tensors["embedding.weight"]
    readout = tensors.get("readout.weight", embedding)
    found = {
        "gpt_neox.embed_in.weight": multipliers.embedding * embedding,
        "embed_out.weight": multipliers.readout * readout,
        **_pair(tensors, "norm", "gpt_neox.final_layer_norm"),
    }
    factors = layer_factors(config, multipliers)
    for block in range(config.num_layers // 2):
        first, second = f"layers.{2 * block}", f"layers.{2 * block + 1}"
        there = f"gpt_neox.layers.{block}"
        found |= _pair(tensors, f"{first}.norm", f"{there}.input_layernorm")
        found |= _pair(tensors, f"{second}.norm", f"{there}.post_attention_layernorm")
        found |= _queries_keys_values(config, multipliers, tensors, f"{first}.attention", there)
        branch, other = factors[2 * block][1], factors[2 * block + 1][1]
        found |= _pair(tensors, f"{first}.attention.output", f"{there}.attention.dense", branch)
        # gelu(m x) / m: m goes into the first product, 1 / m into the second's weight but not its bias.
        m = multipliers.ffn
        found |= _pair(tensors, f"{second}.ffn.up", f"{there}.mlp.dense_h_to_4h", m)
        found |= _pair(tensors, f"{second}.ffn.down", f"{there}.mlp.dense_4h_to_h", other)
        found[f"{there}.mlp.dense_4h_to_h.weight"] = found[f"{there}.mlp.dense_4h_to_h.weight"] / m
    return found


def _pair(tensors: Tensors, name: str, there: str, factor: float = 1.0) -> dict[str, torch.Tensor]:
    return {f"{there}.{part}": factor * tensors[f"{name}.{part}"] for part in ("weight", "bias")}


def _queries_keys_values(
    config: BackboneSection, multipliers: Multipliers, tensors: Tensors, name: str, there: str
) -> dict[str, torch.Tensor]:
    """One matrix, in which each head's query, key and value follow each other."""
    num_heads = count_heads(config.attention, config.d_model)
    d_head = config.d_model // num_heads
    # Theirs divides by sqrt(d_head); turning by a position is linear, so a factor may come before it.
    scale = multipliers.attention * logit_scale(config.attention, d_head) * math.sqrt(d_head)
    found = {}
    for part in ("weight", "bias"):
        q, k, v = (
            tensors[f"{name}.{which}.{part}"].unflatten(0, (num_heads, d_head))
            for which in ("query", "key", "value")
        )
        together = torch.stack((scale * q, k, v), dim=1).flatten(0, 2)
        found[f"{there}.attention.query_key_value.{part}"] = together
    return found
