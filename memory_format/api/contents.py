"""What the service answers of what users hang on their records."""

from __future__ import annotations

from dataclasses import dataclass

from memory_format.api.answer import Answer


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
