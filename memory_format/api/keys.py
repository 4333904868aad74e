"""Answers about keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from memory_format.api.answer import Answer, one_of
from memory_format.api.terms import ROLES


@dataclass(frozen=True)
class KeyInfo(Answer):
    """What is known of a key; never the key itself."""

    key_id: str
    """``em_`` and 8 characters."""
    role: Annotated[str, one_of(ROLES)]
    buffers: tuple[str, ...]
    """Patterns of the names that it is for."""
    learner_id: str | None
    """The only learner whose records it may push or change."""
    trusted: bool
    """Whether what it pushes is taken without decoding it."""
    note: str
    created_at: float
    """Seconds since 1970, as all times."""
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    """None: not since the service was started."""


@dataclass(frozen=True)
class KeyList(Answer):
    """All keys, oldest first, those that let nobody in any more among them."""

    keys: tuple[KeyInfo, ...]


@dataclass(frozen=True)
class NewKey(KeyInfo):
    """A key that was made now."""

    key: str
    """The key itself, which nobody can read again."""
