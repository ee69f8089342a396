"""A checkpoint's transformer as a folder that Hugging Face's `transformers` loads; made without it."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from launcher import files
from launcher.checkpoint.catalog import Saved
from launcher.checkpoint.restore import load_model, saved_recipe
from launcher.data.config import TextSection
from launcher.errors import Problem, UserError
from launcher.export_model import DTYPES, describe_tokenizer, model_card
from launcher.json_text import dump_json
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.schema import Recipe
from models.config import LMConfig
from models.exported import save_tensors
from models.hugging_face import gpt_neox_config, gpt_neox_tensors, why_not_gpt_neox

_LOAD = 'model = AutoModelForCausalLM.from_pretrained("{name}")'


def export_hugging_face(saved: Saved, out: Path, dtype: str) -> list[Path]:
    """Make the folder `out`; returns its files. Raises UserError where it cannot be, or is there already."""
    recipe = saved_recipe(saved)
    plan = make_plan(recipe, planned_ranks(recipe))
    config, multipliers = recipe.model, plan.parameters.multipliers
    if (reason := why_not_gpt_neox(config, multipliers)) is not None:
        message = f"cannot be a Hugging Face model: {reason}"
        remedy = "it has nothing that computes the same; without --format, it is written for plain torch"
        raise UserError(Problem(files.shortest(saved.url), message, remedy))
    assert isinstance(config, LMConfig), config
    if out.exists():
        raise UserError(Problem(str(out), "is there already", "choose another name, or remove it"))
    weights = gpt_neox_tensors(config, multipliers, load_model(saved, torch.device("cpu")).state_dict())
    described = gpt_neox_config(config, recipe.data.seq_len) | {"torch_dtype": dtype}
    how = ["from transformers import AutoModelForCausalLM", _LOAD.format(name=out.name)]
    texts = {
        "config.json": dump_json(described, indent=1) + "\n",
        "README.md": model_card(saved, recipe, plan, how, dtype, beside="the recipe"),
        "recipe.yaml": saved.manifest.recipe,
        **_tokenizer_files(saved, recipe),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", ignore_cleanup_errors=True) as partial:
        save_tensors(
            f"{partial}/model.safetensors",
            {name: tensor.to(DTYPES[dtype]) for name, tensor in weights.items()},
            {"format": "pt"},
        )
        for name, text in texts.items():
            (Path(partial) / name).write_text(text)
        Path(partial).chmod(0o755)
        Path(partial).rename(out)  # last: where it is, all of it is there
    return sorted(out.iterdir())


def _tokenizer_files(saved: Saved, recipe: Recipe) -> Mapping[str, str]:
    """What AutoTokenizer reads; nothing for words and for bare numbers, which it knows no way to read."""
    source = recipe.data.source
    if saved.manifest.data.tokenizer is not None:
        content = describe_tokenizer(saved, recipe)
    elif isinstance(source, TextSection) and source.unit == "bytes":
        content = _bytes_tokenizer()
    else:
        return {}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": recipe.data.seq_len,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": dump_json(content) + "\n", "tokenizer_config.json": dump_json(config) + "\n"}


def _bytes_tokenizer() -> dict[str, object]:
    """A tokenizer.json whose ids are the bytes of UTF-8: a byte-level BPE that has nothing to merge."""
    # Such files spell each byte as a printable character (GPT-2): itself, or those from 256 on in order.
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letters[byte]: byte for byte in range(256)},
            "merges": [],
        },
    }
