"""The record of a check: check.json, and the identity by which a gate finds it. Torch-free."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher import files
from launcher.errors import Problem, UserError
from launcher.recipe.schema import Recipe

RECORD = "check.json"
FOLDER = Path("runs") / "checks"
"""Where checks are kept, below the folder that `launch` is called in."""


def hash_identity(recipe: Recipe) -> str:
    """Hash of what a check depends on: model, parametrisation, optimizer and sharding.

    The width is left out: the check is over widths, so that the proxy model's record serves the large run.
    """
    parts = {
        name: getattr(recipe, name).model_dump(mode="json") for name in ("model", "mup", "optim", "parallel")
    }
    del parts["model"]["d_model"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def default_folder(recipe: Recipe) -> Path:
    """Where the gate looks for a recipe's check."""
    return FOLDER.absolute() / hash_identity(recipe)


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write check.json; numbers that are not finite become words."""
    path = folder / RECORD
    files.write_text(str(path), json.dumps(_plain(record), indent=1) + "\n")
    return path


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def require_passed(recipe: Recipe, path: str) -> None:
    """Raise UserError where the recipe asks for a passed check and there is none for its identity."""
    if not recipe.check.gate:
        return
    record = default_folder(recipe) / RECORD
    problem = None
    if not record.exists():
        problem = "asks for a passed check, and none is recorded for this model and its rates"
    elif not json.loads(record.read_text())["passed"]:
        problem = f"asks for a passed check; the recorded one failed: {record}"
    if problem is not None:
        remedy = f"run: launch check {path}, with the same overrides"
        raise UserError(Problem.at("check.gate", problem, remedy))
