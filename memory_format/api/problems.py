"""What is wrong with something that was sent, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from pydantic_core import ErrorDetails

from memory_format.api.terms import API_KEY_PATTERN

_SHOWN: Final = 60
"""Characters of what was given."""


def words_of(problem: ErrorDetails, known: Iterable[str] = ()) -> str:
    """One problem that pydantic found: what would be right, and what came.

    Args:
        known: names that there are, where one came that is not known.
    """
    kind, said = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        names = ", ".join(known)
        return f"there is no such field here{names and f'; known: {names}'}"
    # What is missing was not given, the others say themselves what came.
    if kind in ("missing", "value_error", "too_short", "too_long"):
        return said.replace(" after validation", "")
    return f"{said}, got {shown(problem['input'])}"


def shown(given: object) -> str:
    """What was given, as JSON has it and not at length; of a key in it, the id."""
    if isinstance(given, str):
        # Before it is cut: half of a key looks like none.
        given = API_KEY_PATTERN.sub(r"em_\1_...", given[: 2 * _SHOWN])
    elif isinstance(given, dict | list | tuple):
        return "an object" if isinstance(given, dict) else "a list"
    text = json.dumps(given, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
