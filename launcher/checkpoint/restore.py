"""Restore the newest good checkpoint of a run, after checking that it belongs to the recipe."""

from collections.abc import Mapping
from typing import cast

import torch

from launcher import files
from launcher.checkpoint.manifest import Rejected, Saved, find_newest
from launcher.checkpoint.save import quarantine
from launcher.checkpoint.storage import read_shapes, read_tensors
from launcher.data.config import DataConfig
from launcher.errors import Problem, UserError
from launcher.mup.base_shapes import BaseShapes, Shapes, compare_shapes
from launcher.world import World

SAME_DATA = "resume with the data it began with, or start a new run"
ADDRESSES = ("url", "train", "validation")
"""Keys of a source that say where, not what."""


def choose_checkpoint(run_url: str, world: World) -> tuple[Saved | None, list[Rejected]]:
    """Agree on the newest checkpoint whose digests hold. Damaged newer ones are moved to RUN/quarantine."""
    found: tuple[Saved | None, list[Rejected]] = (None, [])
    if world.is_main:
        found = find_newest(run_url, verify=True)
        for bad in found[1]:
            if bad.damaged:
                quarantine(run_url, bad.url)
    return world.from_main(found)


def check_identity(
    saved: Saved, base_shapes: BaseShapes, base_shapes_hash: str, scalings: Mapping[str, object]
) -> None:
    """Raise UserError where a checkpoint was trained with other base shapes or multipliers, and show them.

    Its weights were scaled once, at the start, by its own base shapes; under others they mean something else.
    """
    if saved.manifest["base_shapes_hash"] != base_shapes_hash:
        theirs = cast(dict[str, list[int | None]], saved.manifest["base_shapes"])
        shapes = {name: tuple(dims) for name, dims in theirs.items()}
        lines = compare_shapes(shapes, base_shapes)
        raise UserError(
            Problem(
                saved.url,
                "was trained with other base shapes:\n    " + "\n    ".join(lines),
                "resume with the mup section (and model widths) of RUN/recipe.yaml, or start a new run",
            )
        )
    theirs_scalings = cast(dict[str, object], saved.manifest["scalings"])
    different = [name for name in scalings if theirs_scalings.get(name) != scalings[name]]
    if different:
        lines = [f"{n}: {theirs_scalings.get(n)} saved, {scalings[n]} in the recipe" for n in different[:4]]
        raise UserError(
            Problem(
                saved.url,
                "was trained with other multipliers:\n    " + "\n    ".join(lines),
                "see RUN/recipe.yaml",
            )
        )


def check_data(saved: Saved, now: Mapping[str, object]) -> None:
    """Raise UserError where the run would not go on with the samples that an uninterrupted one reads."""
    before = {k: v for k, v in cast(dict[str, object], saved.manifest["data"]).items() if k != "position"}
    if different := _differences(before, now):
        raise UserError(
            Problem(
                saved.url,
                "was trained on other data or in another order:\n    " + "\n    ".join(different),
                SAME_DATA,
            )
        )


def check_model(saved: Saved, before: Shapes, now: Shapes) -> None:
    """Raise UserError where a run's model has other tensors than that of its checkpoint."""
    if different := _differences(before, now):
        more = [f"and {len(different) - 6} more"] if len(different) > 6 else []
        message = "has other tensors than this model:\n    " + "\n    ".join(different[:6] + more)
        remedy = "resume with the model it began with, or start a new run"
        raise UserError(Problem(saved.url, message, remedy))


def check_source(saved: Saved, before: DataConfig, now: DataConfig) -> None:
    """Raise UserError where other data are asked for. The same data may lie elsewhere by now."""
    theirs, ours = (
        {"data.validation_fraction": config.fraction_for_validation}
        | {
            f"data.source.{key}": value
            for key, value in config.source.model_dump().items()
            if key not in ADDRESSES
        }
        for config in (before, now)
    )
    if different := _differences(theirs, ours):
        message = "was trained on other data:\n    " + "\n    ".join(different)
        raise UserError(Problem(saved.url, message, SAME_DATA))


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """A line for each value that is not what it was."""
    return [
        f"{key}: {before.get(key, 'not')} saved, {now.get(key, 'not')} now"
        for key in {**now, **before}
        if before.get(key) != now.get(key)
    ]


def check_same_data(fingerprints: list[str]) -> None:
    """Raise UserError where ranks read different data, such as the sources of two versions of Python."""
    others = [rank for rank, fingerprint in enumerate(fingerprints) if fingerprint != fingerprints[0]]
    if others:
        message = f"ranks {others[:8]} read other data than rank 0"
        raise UserError(
            Problem.at("data.source", message, "give every node the same files and the same Python")
        )


def saved_schedule(saved: Saved) -> Mapping[str, float | int | None]:
    """What Schedule.state() was when the checkpoint was written."""
    return cast(dict[str, dict[str, float | int | None]], saved.manifest["schedule"])["state"]


def saved_fingerprint(saved: Saved) -> str:
    """Hash of the data that a checkpoint was trained on."""
    return str(cast(dict[str, object], saved.manifest["data"])["fingerprint"])


def restore_tensors(saved: Saved, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill live tensors, however sharded, from a checkpoint. Raises UserError if names or shapes differ."""
    index = read_shapes(saved.url)
    problems = [
        Problem(
            files.join(saved.url, name), "is in the checkpoint but not in this run", "see RUN/recipe.yaml"
        )
        for name in index
        if name not in tensors
    ]
    for name, tensor in tensors.items():
        if name not in index:
            problems.append(Problem(name, f"is not in {saved.url}", "see RUN/recipe.yaml"))
        elif index[name] != tuple(tensor.shape):
            message = f"has shape {index[name]} in {saved.url}, {tuple(tensor.shape)} in this run"
            problems.append(Problem(name, message, "see RUN/recipe.yaml"))
    if problems:
        raise UserError(*problems[:10])
    read_tensors(saved.url, tensors)
