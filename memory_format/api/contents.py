"""What the service answers of what records are made of, and of what users hang on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from memory_format.api.answer import Answer, Grid, one_of


@dataclass(frozen=True)
class FieldCount(Answer):
    """Records with one value of a field."""

    value: str | int | float | bool | None
    """None: those without the field."""
    count: int
    bytes: int
    """Their charges."""


@dataclass(frozen=True)
class FieldCounts(Answer):
    """Records by a field of the user's."""

    field: str
    values: tuple[FieldCount, ...]
    """The most frequent first."""
    num_values: int
    """How many there are, listed or not."""
    version: int


@dataclass(frozen=True)
class PartInfo(Answer):
    """A picture or a text of a record."""

    kind: Annotated[str, one_of(("picture", "text"))]
    grid: Grid | None = None
    """Of a picture: rows and columns."""
    num_patches: int = 0
    """Of a picture: patches that are kept."""
    role: str = ""
    """Of a text: who says it; empty where nobody is said to."""
    text_length: int = 0
    """Of a text: its tokens; they come one text after another in the record's."""
