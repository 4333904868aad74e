"""Names of buffers and snapshots."""

from __future__ import annotations

from memory_format import FormatError
from memory_format.api.terms import NAME_PATTERN


def check_name(name: str) -> None:
    """Refuse what can be nobody's name.

    Raises:
        FormatError: ``invalid_request``.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise FormatError(
            f"a name is 1..63 of a-z 0-9 . _ - and begins with a letter or digit, got {name!r}",
            code="invalid_request",
        )
