"""The base of every typed part of a recipe: frozen, strict, no unknown keys. Imports no torch."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A typed part of a recipe. Unknown keys and implicit conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)
