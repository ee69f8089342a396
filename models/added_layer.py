"""The row of a layer kind that comes from an extension. Torch-free, as a recipe's sections are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

from models.section import Section

if TYPE_CHECKING:
    from models.config import BackboneSection
    from models.layer_table import LayerKind

Options = TypeVar("Options", bound=Section)


def _fits(_options: Any, _d_model: int) -> str | None:
    return None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One kind of layer, by the name with which a recipe's `pattern` calls it."""

    kind: Callable[[], "LayerKind"]
    """The row that a built-in kind has in models/layer_table.py. Imports torch only when it is called."""
    section: type[Section] | None = None
    """Its options, in the model's section under its name; each has a default. None: it has no options."""
    misfit: Callable[[Any, int], str | None] = _fits
    """(its options, d_model) -> why it cannot have that width, beginning with a key; None where it can."""
    keeps_apart: bool = False
    """Whether it can keep several documents of one row apart (Mixer.forward takes `documents`)."""


def options_of(config: "BackboneSection", section: type[Options]) -> Options:
    """The options of an added kind. Raises LookupError where the model has no such section."""
    for name in type(config).model_fields:
        if isinstance(found := getattr(config, name), section):
            return found
    raise LookupError(f"the model's section has no {section.__name__}")
