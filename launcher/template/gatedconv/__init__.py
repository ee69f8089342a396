"""A gated short convolution. This module imports no torch: recipes are checked where there is none."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from launcher.recipe.extension import Extension
from models.added_layer import LayerRow
from models.section import Section

if TYPE_CHECKING:
    from models.layer_table import LayerKind


class GatedConvConfig(Section):
    """A gated short convolution."""

    taps: Annotated[int, Field(ge=1, le=64)] = 4
    """Positions that it sees: the newest and taps - 1 earlier ones."""


def _kind() -> "LayerKind":
    from gatedconv.layer import KIND

    return KIND


extension = Extension(layers={"gatedconv": LayerRow(kind=_kind, section=GatedConvConfig)})
