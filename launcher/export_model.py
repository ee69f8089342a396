"""A checkpoint's model as files that need no launcher: weights, and what is needed to use them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from launcher import files
from launcher.checkpoint.catalog import Saved
from launcher.checkpoint.restore import load_model, saved_recipe
from launcher.data.config import TextSection
from launcher.data.tokenizer import Pieces, Words, open_tokenizer
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json
from launcher.mup.bsh import dump_base_shapes
from launcher.plan.plan import Plan, make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.schema import Recipe
from models.config import LMConfig
from models.exported import save_export
from models.facts import Role

SUFFIX = ".safetensors"
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_WHOLE = "parameters of state-space layers, norms and biases"
_BESIDE = "the recipe, the base shapes (mup's .bsh)"
_ROUNDED = (Role.EMBEDDING, Role.MATRIX, Role.READOUT, Role.TIED)


def export_model(saved: Saved, out: Path, dtype: str) -> list[Path]:
    """Write `out` and the files beside it; returns them. Raises UserError where one is there already."""
    recipe = saved_recipe(saved)
    if added := sorted(set(recipe.model.pattern) & set(recipe.model.added)):
        message = f"has {', '.join(added)} layers of an extension, whose code an export would not hold"
        remedy = "launcher.api.load reads it, where that is installed"
        raise UserError(Problem(files.shortest(saved.url), message, remedy))
    plan = make_plan(recipe, planned_ranks(recipe))
    how = ["from models.exported import load_export", f'model = load_export("{out.name}")']
    texts = {
        ".recipe.yaml": saved.manifest.recipe,
        ".base_shapes.bsh": dump_base_shapes(plan.parameters.base_shapes),
        ".tokenizer.json": dump_json(describe_tokenizer(saved, recipe), indent=1) + "\n",
        ".md": model_card(saved, recipe, plan, how, f"{dtype}; {_WHOLE} in float32", beside=_BESIDE),
    }
    paths = [out, *(out.with_suffix(suffix) for suffix in texts)]
    if taken := [path for path in paths if path.exists()]:
        raise UserError(Problem(str(taken[0]), "is there already", "choose another name, or remove it"))
    model = load_model(saved, torch.device("cpu"))
    tensors = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    for name, facts in plan.parameters.facts.items():
        # State-space parameters are small, and their exponentials are not safe in 16 bits.
        if facts.role in _ROUNDED:
            tensors[name] = tensors[name].to(DTYPES[dtype])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        save_export(str(partial), recipe.model, plan.parameters.multipliers, tensors)
        for suffix, text in texts.items():
            files.write_text(str(out.with_suffix(suffix).absolute()), text)
        partial.rename(out)  # last: where it is, all of it is there
    finally:
        partial.unlink(missing_ok=True)
    return paths


def describe_tokenizer(saved: Saved, recipe: Recipe) -> dict[str, Any]:
    """How text becomes token ids, as far as the model reads any."""
    source = recipe.data.source
    if saved.manifest.data.tokenizer is not None:
        tokenizer = open_tokenizer(saved)
        assert isinstance(tokenizer, Pieces)
        return tokenizer.tokenizer.as_json()
    if not isinstance(recipe.model, LMConfig) or not isinstance(source, TextSection):
        return {"type": "none", "note": f"the data are {source.type}: the model reads them as they are"}
    if source.unit == "bytes":
        return {"type": "bytes", "note": "token ids are the bytes of UTF-8"}
    tokenizer = open_tokenizer(saved)
    assert isinstance(tokenizer, Words)
    words = [word.decode(errors="surrogateescape") for word in tokenizer.words[: recipe.model.vocab_size]]
    rule = r"[A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff]*|[0-9]+|\n|[^ \t\n\r\v\f], over bytes"
    return {"type": "words", "rule": rule, "unknown": 0, "words": words}


def model_card(
    saved: Saved, recipe: Recipe, plan: Plan, how: Sequence[str], weights: str, *, beside: str
) -> str:
    """What somebody who finds the file wants to know: `how` it is loaded, what its `weights` are."""
    manifest, model = saved.manifest, recipe.model
    total, data = manifest.schedule.total_steps, manifest.data
    shape = f"{model.num_layers} layers of {', '.join(model.pattern)}, width {model.d_model}"
    rows = {
        "model": f"{model.type}, {plan.parameters.num_parameters:,} parameters, {shape}",
        "trained on": f"{recipe.data.source.type}, windows of {data.seq_len}, {data.fingerprint[:16]}",
        "trained for": f"{manifest.step:,} of {total:,} steps, {manifest.tokens:,} tokens",
        "parametrisation": f"{recipe.mup.type}, base shapes {manifest.base_shapes_hash}",
        "weights": weights,
        "written by": manifest.written_by,
    }
    lines = [f"# {recipe.name}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    lines += ["", *(f"    {line}" for line in how), ""]
    lines += [f"Beside it: {beside}, and how text becomes tokens.", ""]
    return "\n".join(lines)
