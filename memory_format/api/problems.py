"""What is wrong with something that was sent, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from pydantic_core import ErrorDetails

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
    return f"{said}, got {_shown(problem['input'])}"


def _shown(given: object) -> str:
    if isinstance(given, str):
        given = given[: _SHOWN + 1]
    elif isinstance(given, dict | list | tuple):
        return "an object" if isinstance(given, dict) else "a list"
    text = json.dumps(given, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
