"""The key that a client shows, from whoever makes it or from the environment. No error here shows it."""

from __future__ import annotations

import os
from typing import Final

from memory_format.api.terms import API_KEY_PATTERN

VARIABLE: Final = "EXEMPLAR_MEMORY_KEY"


def known_key(given: str | None) -> str | None:
    """The key to show: the one that is given, else the environment's; None where both are empty.

    Raises:
        ValueError: it is no key.
    """
    key, where = (os.environ.get(VARIABLE, ""), f"the environment's {VARIABLE}") if given is None else (given, "key")
    if key and not API_KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{where} is no key; one is em_<8 characters>_<43 characters>, see `memory-service keys make`")
    return key or None
