"""Convert journal lines and recipes to what a tracking server stores: points and parameters. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from launcher.json_text import dump_json
from launcher.track.journal import iterate_lines
from models.config import LayerName

_NOT_A_METRIC = {"event", "time", "attempt", "step", "from_step", "phases_s"}
_NOT_IN_A_NAME = re.compile(r"[^\w\-. /]")  # what MLflow allows in names, without the colon


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one curve. Made from a line alone, so sending a line twice sends the same points."""

    key: str
    value: float
    time_ms: int
    step: int


def line_points(line: Mapping[str, Any]) -> list[Point]:
    """Every number of a line that has a step. Mappings become KEY/NAME; lines other than steps, EVENT_KEY."""
    # {"event": "validation", "step": 40, "loss": 1.2, "baselines": {"majority": 0.1}} gives the points
    # validation_loss 1.2 and validation_baselines/majority 0.1, both at step 40.
    if not isinstance(line.get("step"), int):
        return []
    prefix = "" if line["event"] == "step" else f"{line['event']}_"
    numbers: dict[str, float] = {}
    for key, value in line.items():
        if key in _NOT_A_METRIC:
            continue
        named = value if isinstance(value, Mapping) else {}
        for name, number in [(key, value), *((f"{key}/{inner}", item) for inner, item in named.items())]:
            # loss_by_part/wiki is shown as loss/wiki, beside the loss.
            name = name.replace("_by_part/", "/", 1)
            if isinstance(number, int | float) and not isinstance(number, bool):
                numbers[_NOT_IN_A_NAME.sub("_", prefix + name)] = float(number)
    time_ms = round(line["time"] * 1000)
    return [Point(key, value, time_ms, line["step"]) for key, value in numbers.items()]


def superseded_points(journal: Path, end: int) -> dict[tuple[str, int], float]:
    """Values by (key, step) recorded before the run last went back, for the steps that it repeats.

    Reads the journal up to the offset `end`. Two passes, so that only those steps are kept in memory.
    """
    went_back_at, from_step = 0, 0
    for offset, line in iterate_lines(journal, 0, end, only=b'"from_step"'):
        if "from_step" in line:
            went_back_at, from_step = offset, line["from_step"]
    # Later lines win: after the run has gone back twice, the values are those of its second pass. Lines of
    # steps that are not repeated are not parsed.
    return {
        (point.key, point.step): point.value
        for _, line in iterate_lines(journal, 0, went_back_at, above_step=from_step)
        for point in line_points(line)
        if point.step > from_step
    }


def without_unused_layers(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without the sections of layers that its model does not have."""
    model = recipe.get("model")
    if not isinstance(model, Mapping) or "pattern" not in model:
        return dict(recipe)
    unused = set(get_args(LayerName)) - set(model["pattern"])
    return {**recipe, "model": {key: value for key, value in model.items() if key not in unused}}


def flatten_params(section: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested recipe as {"optim.lr": "0.001", ...}; lists as JSON."""
    params: dict[str, str] = {}
    for key, value in section.items():
        name = _NOT_IN_A_NAME.sub("_", f"{prefix}{key}")
        if isinstance(value, Mapping):
            params |= flatten_params(value, f"{name}.")
        else:
            params[name] = value if isinstance(value, str) else dump_json(value)
    return params
