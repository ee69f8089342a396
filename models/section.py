"""The base of every typed part of a recipe: frozen, strict, no unknown keys. Imports no torch."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

MOST = 1 << 24
"""Largest width, vocabulary or number of states: beyond it a weight has more numbers than can be counted."""
MANY = 1 << 53
"""Largest number of steps or samples: floats and readers of JSON are exact up to here."""

Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
Size = Annotated[int, Field(ge=2, le=MOST)]
Steps = Annotated[int, Field(ge=1, le=MANY)]
"""A number of steps or samples."""
Positive = Annotated[float, Field(gt=0)]
StepsOrZero = Annotated[int, Field(ge=0, le=MANY)]


class Section(BaseModel):
    """A typed part of a recipe. Unknown keys and implicit conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    row: ClassVar[object | None] = None
    """Of a section that an extension adds to a choice by `type`: its row. Ours have theirs in a table."""
