"""Extensions: layers, optimizers, schedules, sources and clusters of installed distributions. Torch-free.

The distribution declares one entry point of the group `launcher.extensions`, which is an Extension. Recipe
values never name code: a recipe names the distribution, and only what such an entry point offers is loaded.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, final, get_args

from pydantic import BaseModel

from cluster.config import ClusterConfig
from cluster.job import Cluster
from cluster.snapshot import digest_files
from launcher.data.source_table import SOURCES, SourceKind
from launcher.errors import Problem, UserError
from launcher.optim.optimizer_table import OPTIMIZERS, OptimizerKind
from launcher.optim.schedule import SCHEDULES, ScheduleKind
from launcher.recipe.suggest import close_matches, did_you_mean
from models.added_layer import LayerRow
from models.config import BackboneSection, LayerName

GROUP = "launcher.extensions"
KEY = "extensions"
Row = TypeVar("Row")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRow:
    """One kind of machine."""

    build: Callable[[Any], Cluster]
    """Receives the recipe's `cluster` section."""
    section: type[BaseModel] | None = None
    """Its options, in that section under its name; each has a default. None: it has no options."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """What a distribution offers: rows by name, the same as those of the built-in tables."""

    layers: Mapping[str, LayerRow] = field(default_factory=dict)
    optimizers: Mapping[str, OptimizerKind] = field(default_factory=dict)
    schedules: Mapping[str, ScheduleKind] = field(default_factory=dict)
    sources: Mapping[str, SourceKind] = field(default_factory=dict)
    clusters: Mapping[str, ClusterRow] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionFacts:
    """Which code an extension is."""

    version: str
    digest: str
    """sha256 of its Python files, with their names."""


_ROWS = {
    "layers": LayerRow,
    "optimizers": OptimizerKind,
    "schedules": ScheduleKind,
    "sources": SourceKind,
    "clusters": ClusterRow,
}


def taken_names() -> set[str]:
    """What no new layer, and no package with one, can be called."""
    return {*BackboneSection.model_fields, *get_args(LayerName), "launcher", "models", "cluster"}


def installed_extensions() -> list[str]:
    """Distributions that declare one."""
    points = importlib.metadata.entry_points(group=GROUP)
    return sorted({point.dist.name for point in points if point.dist is not None})


@functools.cache
def load_extension(name: str) -> Extension:
    """What an installed distribution offers. Raises UserError that names it."""
    extension = _load(_entry_point(name), name)
    for table, kind in _ROWS.items():
        for row_name, row in getattr(extension, table).items():
            if not isinstance(row, kind):
                found, wanted = type(row).__name__, kind.__name__
                raise _refusal(name, f"offers {table}[{row_name!r}], which is a {found}, not a {wanted}")
            _check_name(name, table, row_name)
    return replace(
        extension,
        **{
            table: {row_name: _named(name, row) for row_name, row in getattr(extension, table).items()}
            for table in _ROWS
        },
    )


def merge_extensions(names: tuple[str, ...]) -> Extension:
    """What several offer together. Raises UserError where two offer the same name."""
    merged: dict[str, dict[str, Any]] = {table: {} for table in _ROWS}
    owners: dict[tuple[str, str], str] = {}
    for name in names:
        for table in _ROWS:
            for row_name, row in getattr(load_extension(name), table).items():
                if (other := owners.setdefault((table, row_name), name)) != name:
                    raise _refusal(name, f"and {other} both offer {table}[{row_name!r}]", "use one of them")
                merged[table][row_name] = row
    return Extension(**merged)


@functools.cache
def extension_facts(name: str) -> ExtensionFacts:
    """Version and digest of an installed extension."""
    point = _entry_point(name)
    spec = importlib.util.find_spec(point.module.partition(".")[0])
    assert spec is not None, f"{point.module} was loaded"
    assert spec.origin is not None, f"{point.module} has a file"
    folder = Path(spec.origin).parent
    paths = folder.rglob("*.py") if spec.submodule_search_locations else [Path(spec.origin)]
    version = importlib.metadata.version(name)
    return ExtensionFacts(version=version, digest=digest_files(folder, paths))


def _entry_point(name: str) -> importlib.metadata.EntryPoint:
    try:
        points = importlib.metadata.distribution(name).entry_points.select(group=GROUP)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        others = installed_extensions()
        hint = did_you_mean(close_matches(name, others)) or f"pip install it; installed: {_listed(others)}"
        raise _refusal(name, "is not installed in this Python", hint) from None
    if len(points) != 1:
        hint = f"extensions that are installed: {_listed(installed_extensions())}"
        raise _refusal(name, f"declares {len(points)} entry points of {GROUP}, not one", hint)
    return next(iter(points))


def _load(point: importlib.metadata.EntryPoint, name: str) -> Extension:
    try:
        extension = point.load()
    except Exception as error:  # whatever its modules do
        raise _refusal(name, f"cannot be loaded from {point.value}: {_said(error)}") from error
    if not isinstance(extension, Extension):
        raise _refusal(name, f"has {point.value}, which is {type(extension).__name__}, not an Extension")
    return extension


def _check_name(name: str, table: str, row_name: str) -> None:
    ours = {
        "layers": taken_names(),
        "optimizers": set(OPTIMIZERS),
        "schedules": set(SCHEDULES),
        "sources": set(SOURCES),
        "clusters": {"auto", "local", "slurm", *ClusterConfig.model_fields},
    }[table]
    if row_name in ours:
        raise _refusal(name, f"offers {table}[{row_name!r}], which there is already")
    if table in ("layers", "clusters") and (not row_name.isidentifier() or row_name.startswith("_")):
        raise _refusal(name, f"offers {table}[{row_name!r}]; use letters, digits and _, as it becomes a key")


def _named(name: str, row: Row) -> Row:
    """The row, whose functions name the extension where they fail."""
    assert is_dataclass(row), row
    found = {one.name: getattr(row, one.name) for one in fields(row)}
    changes = {
        key: _guarded(name, value)
        for key, value in found.items()
        if callable(value) and not isinstance(value, type)
    }
    if isinstance(row, LayerRow):  # its row of functions is made by one, once
        make = changes["kind"]
        changes["kind"] = functools.cache(lambda: _named(name, make()))
    return replace(row, **changes)  # type: ignore[type-var]


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError:
            raise
        except Exception as error:  # it would else look like a fault of ours
            raise _refusal(name, f"fails in {function.__qualname__}: {_said(error)}") from error

    return call


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _refusal(name: str, message: str, remedy: str = "") -> UserError:
    remedy = remedy or "this is for its author; `launch -v ...` shows where"
    return UserError(Problem.at(KEY, f"{name} {message}", remedy))
