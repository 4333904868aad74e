"""Fields of the user's: a few small values of a record, by name, that a service filters and groups by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from memory_format.errors import FormatError
from memory_format.text import check_text

FieldValue: TypeAlias = str | int | float | bool

FIELD_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
MAX_FIELDS: Final = 16
"""Of one record."""
MAX_FIELD_TEXT: Final = 128
"""Characters of a value."""


def check_fields(fields: Any) -> dict[str, FieldValue]:
    """Fields as they are kept, numpy's values as Python's own.

    Raises:
        FormatError: they are too many, or one has a name or a value that no field has.
    """
    if not isinstance(fields, Mapping):
        raise FormatError(f"fields must be a dict, got {fields!r:.100}")
    if len(fields) > MAX_FIELDS:
        raise FormatError(f"a record has at most {MAX_FIELDS} fields, got {len(fields)}")
    return {_name(name): _value(name, value) for name, value in fields.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not FIELD_PATTERN.fullmatch(name):
        raise FormatError(f"a field's name is 1..32 of A-Z a-z 0-9 _ and begins with no digit, got {name!r:.100}")
    return name


def _value(name: str, value: Any) -> FieldValue:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        try:
            return check_text(f"field {name!r}", value, max_length=MAX_FIELD_TEXT)
        except FormatError as error:
            raise FormatError(error.message) from None  # of a record, and not of a request
    raise FormatError(
        f"field {name!r} must be text, a whole number of 64 bits, a finite number or a bool, got {value!r:.100}"
    )


def written(value: FieldValue) -> str:
    """A value as text: what has the same is one value to a filter."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)
