"""The recipe with the choices that extensions add. Torch-free."""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, create_model

from cluster.config import ClusterConfig
from launcher.data.config import DataConfig, Source
from launcher.errors import Problem, UserError
from launcher.optim.config import OptimConfig, ScheduleConfig
from launcher.recipe.schema import Recipe
from launcher.recipe.tree import Node, child
from models.added_layer import LayerRow
from models.config import BackboneSection, ClassifierConfig, LayerName, LMConfig
from models.section import Section


def recipe_type(tree: Node) -> type[Recipe]:
    """The type of a recipe that is written like this. Raises UserError, placed, for what cannot be loaded."""
    node = child(tree, "extensions")
    if node is None:
        return Recipe
    # What is not a list of names is refused as such; one name is meant, and the rest is read with it.
    names = [one.value for one in node.value] if isinstance(node.value, list) else [node.value]
    texts = tuple(name for name in names if isinstance(name, str))
    if not texts:
        return Recipe
    try:
        return extended_recipe(texts)
    except UserError as error:
        raise UserError(
            *(Problem(node.place, found.message, found.remedy) for found in error.problems)
        ) from error
    except Exception as error:  # of pydantic: a section without defaults, a choice without a `type`
        what = " ".join(str(error).split())[:200]
        message = f"{', '.join(texts)}: a section does not fit into a recipe: {type(error).__name__}: {what}"
        raise UserError(Problem(node.place, message, "see docs/extending.md; -v shows where")) from error


@functools.cache
def extended_recipe(names: tuple[str, ...]) -> type[Recipe]:
    """The type of recipes with these extensions. Raises UserError for what cannot be loaded."""
    from launcher.recipe.extension import merge_extensions  # all tables: not for a recipe without extensions

    added = merge_extensions(names)
    models = [_model(base, added.layers) for base in (LMConfig, ClassifierConfig)]
    cluster = _cluster(added.clusters)
    fields = {
        "model": (_by_type(models), ...),
        "data": (_subclass(DataConfig, {"source": (_choice(Source, added.sources), ...)}), ...),
        "optim": (_choice(OptimConfig, added.optimizers), ...),
        "schedule": (_choice(ScheduleConfig, added.schedules), ...),
        "cluster": (cluster, cluster()),
    }
    recipe: type[Recipe] = _subclass(Recipe, fields)
    recipe.model_rebuild()  # else a section that cannot be part of a recipe would be found at its first value
    return recipe


def _subclass(base: type[Any], fields: Mapping[str, Any]) -> type[Any]:
    """A class of the same name, by which messages and the schema know it, with fields of other types."""
    name, module = base.__name__, base.__module__
    return create_model(name, __base__=base, __module__=module, __doc__=base.__doc__, **fields)


def _model(base: type[BackboneSection], layers: Mapping[str, LayerRow]) -> type[BackboneSection]:
    kinds = Literal[(*get_args(LayerName), *layers)]  # type: ignore[valid-type]
    options = {name: (row.section, row.section()) for name, row in layers.items() if row.section is not None}
    default = base.model_fields["pattern"].default
    pattern = (tuple[kinds, ...], Field(min_length=1, default=default))  # type: ignore[valid-type]
    made: type[BackboneSection] = _subclass(base, {"pattern": pattern, **options})
    made.added = layers
    return made


def _choice(union: Any, rows: Mapping[str, Any]) -> Any:
    """A choice by `type`, with the sections of more rows."""
    return _by_type([*get_args(get_args(union)[0]), *map(_with_row, rows.values())])


def _by_type(sections: Iterable[Any]) -> Any:
    return Annotated[functools.reduce(operator.or_, sections), Field(discriminator="type")]


def _with_row(row: Any) -> type[Section]:
    made: type[Section] = _subclass(row.section, {})
    made.row = row
    return made


def _cluster(rows: Mapping[str, Any]) -> type[ClusterConfig]:
    kinds = Literal[(*get_args(ClusterConfig.model_fields["type"].annotation), *rows)]  # type: ignore[valid-type]
    options: dict[str, Any] = {
        name: (row.section, row.section()) for name, row in rows.items() if row.section is not None
    }
    made: type[ClusterConfig] = _subclass(ClusterConfig, {"type": (kinds, "auto"), **options})
    made.added = {name: row.build for name, row in rows.items()}
    return made
