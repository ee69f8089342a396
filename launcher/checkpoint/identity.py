"""Which run a checkpoint belongs to: what its manifest records of recipe, plan and data, and the checks."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from launcher import files
from launcher.checkpoint.catalog import Saved
from launcher.checkpoint.manifest import (
    DataEntry,
    ExtensionEntry,
    Manifest,
    ParameterEntry,
    RandomEntry,
    ScheduleEntry,
)
from launcher.data.config import DataConfig
from launcher.errors import Problem, UserError
from launcher.mup.base_shapes import Shapes, compare_shapes
from launcher.optim.config import OptimConfig
from launcher.plan.parameters import Parameters
from launcher.plan.plan import Plan
from launcher.recipe.compile import dump_recipe
from launcher.recipe.schema import Recipe
from models.config import max_chars

SAME_DATA = "resume with the data it started with, or start a new run"
ADDRESSES = ("url", "train", "validation", "path")
"""Keys of a source that say where the data is stored, not what it is."""


def describe_attempt(recipe: Recipe, plan: Plan, data: DataEntry, attempt: int) -> Manifest:
    """The manifest of an attempt at step 0, without files: made once, completed at each save."""
    # A checkpoint can be loaded under any engine, strategy and number of ranks. These are recorded for people
    # who investigate a run, and check_identity does not compare them.
    engine_is_torch = recipe.parallel.engine == "torch"
    return Manifest(
        written_by=f"mulaunch {_version()}",
        step=0,
        data_step=0,
        tokens=0,
        attempt=attempt,
        engine=recipe.parallel.engine,
        strategy=recipe.parallel.strategy if engine_is_torch else None,
        zero_stage=recipe.parallel.zero_stage,
        world_size=plan.batch.world_size,
        random=RandomEntry(seed=recipe.seed, data_step=0),
        schedule=ScheduleEntry(
            config=recipe.schedule.model_dump(mode="json"), total_steps=plan.steps, state={}
        ),
        data=data,
        recipe=dump_recipe(recipe),
        files={},
        base_shapes_hash=plan.parameters.base_shapes_hash,
        base_shapes={name: tuple(dims) for name, dims in plan.parameters.base_shapes.items()},
        parameters=describe_parameters(plan.parameters),
        tuned=dict(plan.parameters.tuned),
        extensions=describe_extensions(plan),
    )


def describe_extensions(plan: Plan) -> dict[str, ExtensionEntry]:
    """Which code each of the recipe's extensions is."""
    return {
        name: ExtensionEntry(version=facts.version, digest=facts.digest)
        for name, facts in plan.extensions.items()
    }


def check_extensions(saved: Saved, plan: Plan) -> None:
    """Raise UserError where an extension's code is not the one that trained a checkpoint."""
    now = describe_extensions(plan)
    for name, entry in saved.manifest.extensions.items():
        if entry != now.get(name, entry):
            ours, theirs = (f"{one.version} (sha256 {one.digest[:16]})" for one in (now[name], entry))
            message = f"{name} is {ours}, but {files.shortest(saved.url)} was trained with {theirs}"
            remedy = "install that one again, or start a new run from its weights: train.init_from"
            raise UserError(Problem.at("extensions", message, remedy))


def check_optimizer(saved: Saved, before: OptimConfig, now: OptimConfig) -> None:
    """Raise UserError where another optimizer would take over moments that mean something else to it."""
    if before.type != now.type:
        raise UserError(
            Problem.at(
                "optim.type",
                f"is {now.type}, but {files.shortest(saved.url)} was trained with {before.type}, whose "
                "moments mean something else",
                f"use {before.type}, or start a new run",
            )
        )


def _version() -> str:
    try:
        return importlib.metadata.version("mulaunch")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "of a checkout"


def describe_data(recipe: Recipe, fingerprint: str, tokenizer: str | None) -> DataEntry:
    """What the samples and their order depend on."""
    # With the data step, this fixes every batch: a resume at data step 300 reads the batches that an
    # uninterrupted run would read from there. The number of ranks is not part of it: a global batch is the
    # same set of samples however many ranks share it.
    return DataEntry(
        fingerprint=fingerprint,
        seed=recipe.seed,
        global_batch_size=recipe.train.global_batch_size,
        seq_len=recipe.data.seq_len,
        truncated_bptt=recipe.train.truncated_bptt,
        max_chars=max_chars(recipe.model),
        documents=recipe.data.documents,
        tokenizer=tokenizer,
    )


def describe_parameters(parameters: Parameters) -> dict[str, ParameterEntry]:
    """Role and multipliers of every parameter."""
    return {
        name: ParameterEntry(
            role=str(parameters.facts[name].role),
            ssm=parameters.facts[name].ssm,
            init=scaling.init,
            forward=scaling.forward,
            gradient=scaling.gradient,
            lr=scaling.lr,
            weight_decay=scaling.weight_decay,
            eps=scaling.eps,
        )
        for name, scaling in parameters.scalings.items()
    }


def check_identity(saved: Saved, parameters: Parameters) -> None:
    """Raise UserError if a checkpoint was trained with other base shapes, roles or multipliers.

    Its weights were scaled once, at initialization, by its own base shapes.
    """
    # Tensor names and sizes would not show this: base width 64 changed to 128 gives the same shapes, and
    # training would continue at half or twice the learning rates and forward multipliers, without an error.
    manifest = saved.manifest
    if manifest.base_shapes_hash != parameters.base_shapes_hash:
        lines = compare_shapes(manifest.base_shapes, parameters.base_shapes)
        raise UserError(
            Problem(
                saved.url,
                "was trained with other base shapes:\n    " + "\n    ".join(lines),
                "resume with the mup section (and model widths) of RUN/recipe.yaml, or start a new run",
            )
        )
    # The same base shapes can still give other multipliers: another mup.type, optimizer or version of the
    # rules.
    now = describe_parameters(parameters)
    lines = _differences(manifest.tuned or {}, parameters.tuned)
    lines += [
        f"{name}: {change}"
        for name, entry in manifest.parameters.items()
        for change in _differences(_known(entry), now[name].model_dump() if name in now else {})
    ]
    if lines:
        message = "was trained with other multipliers:\n    " + "\n    ".join(lines[:4])
        raise UserError(Problem(saved.url, message, "see RUN/recipe.yaml"))


def check_weights(saved: Saved, parameters: Parameters) -> None:
    """Raise UserError if a checkpoint's weights would compute something else in this model.

    Rates and decays may differ: another run may train them in another way.
    """
    if saved.manifest.base_shapes_hash != parameters.base_shapes_hash:
        lines = compare_shapes(saved.manifest.base_shapes, parameters.base_shapes)
        message = "was trained with other base shapes:\n    " + "\n    ".join(lines)
        remedy = "give this run the mup section (and model widths) that it was trained with"
        raise UserError(Problem(files.shortest(saved.url), message, remedy))
    now = describe_parameters(parameters)
    keys = ("role", "ssm", "init", "forward")
    before = {
        f"{name}.{key}": value
        for name, entry in saved.manifest.parameters.items()
        for key, value in _known(entry).items()
        if key in keys
    }
    after = {f"{name}.{key}": getattr(entry, key) for name, entry in now.items() for key in keys}
    tuned = saved.manifest.tuned or {}
    before |= {key: value for key, value in tuned.items() if key.startswith("mup.multipliers.")}
    after |= parameters.tuned
    if changed := _differences(before, after):
        message = "was trained as another parametrisation:\n    " + "\n    ".join(changed[:4])
        raise UserError(
            Problem(files.shortest(saved.url), message, "use the model and mup.type that trained it")
        )


def _known(entry: ParameterEntry) -> dict[str, object]:
    """What a manifest records of a parameter; format 1 does not record its role."""
    values = entry.model_dump()
    return values if entry.role is not None else {k: v for k, v in values.items() if k not in ("role", "ssm")}


def check_data(saved: Saved, now: DataEntry) -> None:
    """Raise UserError if the run would not read the samples that an uninterrupted one reads."""
    if different := _differences(saved.manifest.data.model_dump(), now.model_dump()):
        message = "was trained on other data or in another order:\n    " + "\n    ".join(different)
        raise UserError(Problem(saved.url, message, SAME_DATA))


def check_model(saved: Saved, before: Shapes, now: Shapes) -> None:
    """Raise UserError if a run's model has other tensors than its checkpoint."""
    if different := _differences(before, now, both=True):
        more = [f"and {len(different) - 6} more"] if len(different) > 6 else []
        message = "has other tensors than this model:\n    " + "\n    ".join(different[:6] + more)
        remedy = "resume with the model it started with, or start a new run"
        raise UserError(Problem(saved.url, message, remedy))


def check_source(saved: Saved, before: DataConfig, now: DataConfig) -> None:
    """Raise UserError if the data differ. The same data may have moved to another address."""
    theirs, ours = (
        {"data.validation_fraction": config.fraction_for_validation}
        | {
            f"data.source.{key}": value
            for key, value in _without_addresses(config.source.model_dump()).items()
        }
        for config in (before, now)
    )
    if different := _differences(theirs, ours, both=True):
        message = "was trained on other data:\n    " + "\n    ".join(different)
        raise UserError(Problem(saved.url, message, SAME_DATA))


def _without_addresses(source: Mapping[str, Any]) -> dict[str, Any]:
    """What the data are, also of the parts of a mixture."""
    return {
        key: _without_addresses(value) if isinstance(value, Mapping) else value
        for key, value in source.items()
        if key not in ADDRESSES
    }


def _differences(before: Mapping[str, object], now: Mapping[str, object], *, both: bool = False) -> list[str]:
    """A line for each value that has changed; with `both`, also for each key that only `now` has."""
    # Without `both`, a key that only `now` has is not a difference: format 1 did not record all of them.
    return [
        f"{key}: {before.get(key, 'not')} saved, {now.get(key, 'not')} now"
        for key in ({**now, **before} if both else before)
        if before.get(key) != now.get(key)
    ]
