"""The record of a check: check.json, and the identity by which a gate finds it. Torch-free."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import files
from launcher.check.shrink import describe_shrinking
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json, load_json
from launcher.recipe.schema import Recipe

if TYPE_CHECKING:
    from launcher.check.run_check import CheckResult

RECORD = "check.json"
FOLDER = Path("runs") / "checks"
"""Where checks are stored, below the folder in which `launch` is called."""


def hash_identity(recipe: Recipe) -> str:
    """Hash of what a check depends on: model, parametrization, optimizer and sharding.

    The width is left out: a check covers widths, so its record is valid for the large run too.
    """
    # Rates are part of it, as they are in `optim`: a check of lr 1e-3 says nothing about lr 1e-1. Data,
    # schedule and cluster are not: changing them does not change how activations scale with width.
    parts = {
        name: getattr(recipe, name).model_dump(mode="json") for name in ("model", "mup", "optim", "parallel")
    }
    del parts["model"]["d_model"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def default_folder(recipe: Recipe) -> Path:
    """Where the gate looks for a recipe's check."""
    return FOLDER.absolute() / hash_identity(recipe)


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write check.json."""
    path = folder / RECORD
    files.write_text(str(path), dump_json(record, indent=1) + "\n")
    return path


def check_record(result: "CheckResult", identity: str) -> dict[str, Any]:
    """The content of check.json."""
    from launcher.check.coordinates import (
        BOUND,
    )  # imports torch, which is loaded already if there is a result

    setting = result.setting
    return {
        "recipe": setting.recipe.name,
        "identity": identity,
        "passed": result.passed,
        "bound": BOUND,
        "widths": list(setting.widths),
        "seeds": list(setting.seeds),
        "lr_amplification": setting.lr_amplification,
        "shrunk": describe_shrinking(setting.recipe, setting.widths),
        "findings": [asdict(finding) for finding in result.findings],
        "slopes": [asdict(slope) for slope in result.slopes],
        "slopes_of_parameters": [asdict(slope) for slope in result.parameters],
        "slopes_sharded": [asdict(slope) for slope in result.sharded],
    }


def recorded_check(recipe: Recipe) -> bool | None:
    """Whether the check that is recorded for a recipe's identity has passed; None where there is none."""
    record = default_folder(recipe) / RECORD
    return bool(load_json(record.read_bytes())["passed"]) if record.exists() else None


def require_passed(recipe: Recipe, path: str) -> None:
    """Raise UserError if the recipe requires a passed check and none is recorded for its identity."""
    if not recipe.check.gate:
        return
    passed, problem = recorded_check(recipe), None
    if passed is None:
        problem = "requires a passed check, and none is recorded for this model and its rates"
    elif not passed:
        record = default_folder(recipe) / RECORD
        problem = f"requires a passed check; the recorded one failed: {record}"
    if problem is not None:
        remedy = f"run: launch check {path}, with the same overrides"
        raise UserError(Problem.at("check.gate", problem, remedy))
