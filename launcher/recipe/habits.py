"""What people write by habit, from other programs and languages, and what it is here. Pure data and text."""

import re
import unicodedata
from collections.abc import Mapping

KEYS: Mapping[str, str] = {
    "learning_rate": "optim.lr",
    "max_lr": "optim.lr",
    "peak_lr": "optim.lr",
    "optimizer": "optim",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "max_grad_norm": "optim.grad_clip",
    "gradient_clip_val": "optim.grad_clip",
    "gradient_clipping": "optim.grad_clip",
    "clip_grad_norm": "optim.grad_clip",
    "batch_size": "train.global_batch_size",
    "train_batch_size": "train.global_batch_size",
    "per_device_train_batch_size": "train.micro_batch_size",
    "max_steps": "train.steps",
    "num_steps": "train.steps",
    "total_steps": "train.steps",
    "iterations": "train.steps",
    "epochs": "train.steps",
    "num_epochs": "train.steps",
    "max_epochs": "train.steps",
    "eval": "train.validate_every",
    "eval_every": "train.validate_every",
    "eval_interval": "train.validate_every",
    "eval_steps": "train.validate_every",
    "save_every": "checkpoint.every",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "logging_steps": "track.log_every",
    "log_interval": "track.log_every",
    "hidden_size": "model.d_model",
    "n_embd": "model.d_model",
    "dim": "model.d_model",
    "width": "model.d_model",
    "n_layers": "model.num_layers",
    "n_layer": "model.num_layers",
    "depth": "model.num_layers",
    "num_hidden_layers": "model.num_layers",
    "n_heads": "model.attention.num_heads",
    "max_length": "data.seq_len",
    "block_size": "data.seq_len",
    "context_length": "data.seq_len",
    "sequence_length": "data.seq_len",
    "dtype": "parallel.precision",
    "mixed_precision": "parallel.precision",
    "num_nodes": "cluster.nodes",
    "gpus": "cluster.gpus_per_node",
    "devices": "cluster.nproc_per_node",
    "mlflow": "track.mlflow",
    "random_seed": "seed",
    "vocabulary": "model.vocab_size",
    "vocabulary_size": "model.vocab_size",
    "n_vocab": "model.vocab_size",
    "beta1": "optim.betas",
    "beta2": "optim.betas",
}
"""A key as it is called elsewhere, and here."""
IN_SECTION: Mapping[str, str] = {
    "model.ffn.expansion": "model.ffn.expand",
    "model.ssd.expansion": "model.ssd.expand",
    "checkpoint.every_steps": "checkpoint.every",
    "checkpoint.interval": "checkpoint.every",
    "checkpoint.save_last": "checkpoint.keep",
    "schedule.warmup": "schedule.warmup_steps",
    "track.every": "track.log_every",
}
"""The same where the section matters."""
_WHY = {
    "epochs": "a run is counted in steps; `launch plan` prints the tokens of that many",
    "num_epochs": "a run is counted in steps; `launch plan` prints the tokens of that many",
    "max_epochs": "a run is counted in steps; `launch plan` prints the tokens of that many",
}
_CHOICES: Mapping[str, str] = {
    "bfloat16": "bf16",
    "bf16-mixed": "bf16",
    "torch.bfloat16": "bf16",
    "float32": "fp32",
    "torch.float32": "fp32",
    "fsdp": "fsdp2",
    "fully_sharded": "fsdp2",
    "deepspeed": "zero",
    "mlp": "ffn",
    "fnn": "ffn",
    "self_attention": "attention",
    "mamba2": "ssd",
    "swiglu": "glu",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "transformer": "lm",
    "causal_lm": "lm",
    "huggingface": "files",
    "text": "files",
    "m\N{GREEK SMALL LETTER MU}p": "mup",
    "\N{GREEK SMALL LETTER MU}p": "mup",
    "\N{MICRO SIGN}p": "mup",
    "linear_warmup": "linear",
    "warmup_cosine": "cosine",
}
_MINUS = "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{NON-BREAKING HYPHEN}\N{HYPHEN}\N{FULLWIDTH HYPHEN-MINUS}"
BLANK = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{ZERO WIDTH SPACE}\N{IDEOGRAPHIC SPACE}"


def known_key(section: str, key: str) -> tuple[str, str] | None:
    """The key meant by one that is not known in a section, and a sentence about it."""
    meant = IN_SECTION.get(f"{section}.{key}") or KEYS.get(key.lower())
    if meant is None or meant == f"{section}.{key}":
        return None
    why = _WHY.get(key.lower())
    return meant, f"here it is {meant}" + (f": {why}" if why else "")


def known_choice(text: str, choices: list[str]) -> str | None:
    """The choice meant by another program's word."""
    meant = _CHOICES.get(text.lower())
    return meant if meant in choices else None


def value_remedy(text: str, *, number: bool, whole: bool, null: bool, place: str) -> str:
    """What to write instead of a text that was meant as a number or as nothing; empty where unknown."""
    if null and text.lower() in ("none", "nil", "null", "undefined", "off", "no"):
        return "write null for none"
    if re.fullmatch(r"\$\{?\w+\}?|\{\{.*\}\}", text):
        return "a recipe has no variables: give the value on the command line, key=value"
    if not number:
        return ""
    if (plain := _plain(text)) is not None:
        return plain
    if re.fullmatch(r"[^;,]+[;,]", text) and _is_float(text[:-1]):
        return f"write {text[:-1]}, without the {text[-1]!r}"
    if re.fullmatch(r"[+-]?\d+(\.\d+)?\s*%", text):
        return f"write {float(text.rstrip('% ')) / 100:g}"
    if re.fullmatch(r"\d{1,3}( \d{3})+", text):
        return f"write {text.replace(' ', '')}, or {text.replace(' ', '_')}"
    if re.fullmatch(r"(\d+-)?\d+:\d\d(:\d\d)?", text):
        return "write a number, or one with a unit, such as 90min or 24h"
    if (counted := re.fullmatch(r"(\d+(?:\.\d+)?) ?[a-z]{2,}", text)) is not None:
        return f"write {counted[1]}"
    if text.lower().lstrip("+-.") in ("inf", "infinity", "nan"):
        return "write a finite number"
    if said := _without_comma(text, whole=whole):
        return said
    parts = [part.strip() for part in text.split(",")]
    if place.startswith("override") and len(parts) > 1 and all(map(_is_float, parts)):
        return "several values are a grid: launch sweep RECIPE key=a,b"
    return ""


def _plain(text: str) -> str | None:
    """A number whose minus or blank only looks like one, as it should be written, and the letter's name."""
    strange = [letter for letter in text if letter in _MINUS + BLANK]
    if not strange:
        return None
    table = {ord(letter): "-" for letter in _MINUS} | {ord(letter): None for letter in BLANK}
    meant = text.translate(table)
    if not _is_float(meant):
        return None
    name = unicodedata.name(strange[0]).lower()
    return (
        f"write {meant}: it has {'an' if name[0] in 'aeiou' else 'a'} {name} (U+{ord(strange[0]):04X}) in it"
    )


def _is_comma(text: str) -> bool:
    """Whether a comma may stand for a decimal point: 0,004 and 1,5e-3, but not 1e-3,2e-3."""
    return re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", text) is not None


def _without_comma(text: str, *, whole: bool) -> str:
    """1,000,000 is a million; 0,004 and 1,5e-3 have a decimal comma; 1,500 may be either unless `whole`."""
    groups = re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", text) is not None
    thousands, decimal = text.replace(",", ""), text.replace(",", ".")
    if groups and (whole or not _is_comma(text)):
        return f"write {thousands} without commas"
    if groups:
        return f"write {thousands} without commas, or {decimal} with a decimal point"
    return f"write {decimal} with a decimal point" if _is_comma(text) and not whole else ""


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def list_remedy(text: str) -> str:
    """How a text is written that was meant as a list."""
    inner = re.sub(r"^\((.*)\)$", r"\1", text.strip())
    if text.lstrip().startswith("-"):
        items = [item.strip() for item in re.split(r"(?:^|\s)-\s*", text) if item.strip()]
        return f"write [{', '.join(items)}], or a space after each dash"
    return f"write [{', '.join(item.strip() for item in inner.split(','))}]"
