"""What is drawn: bars of room, and records by class, phase or learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_service.store import Buffer
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.stats import totals

MOST_ROWS: Final = 20
"""Of a table of classes, phases or learners; the others are one row."""
_PROFILE_POINTS: Final = 100


@dataclass(frozen=True)
class Part:
    """One piece of a bar."""

    kind: str
    bytes: int


@dataclass(frozen=True)
class Room:
    """What a buffer's place on the disk is taken up by: the bytes of ``parts`` are ``limit_bytes`` together, or more
    where files wait for their readers."""

    budget_bytes: int
    limit_bytes: int
    parts: tuple[Part, ...]


def room_of(buffer: Buffer) -> Room:
    """The bytes of a buffer that are live, pinned, dead, of the index and of files that are being read, and free. Waits
    for nobody."""
    state, held = buffer.state, buffer.contents.readers.held_bytes()
    live, pinned, dead = state.columns.bytes_used, state.pinned_bytes, state.dead_bytes
    other = max(0, state.disk_bytes + held - live - pinned - dead)
    free = max(0, state.config.disk_limit_bytes - live - pinned - dead - other)
    kinds = {"live": live, "pinned": pinned, "dead": dead, "other": other, "free": free}
    parts = tuple(Part(kind, num_bytes) for kind, num_bytes in kinds.items())
    return Room(state.config.budget_bytes, state.config.disk_limit_bytes, parts)


@dataclass(frozen=True)
class Row:
    """Records that have one value in common."""

    value: str
    count: int
    bytes: int
    name: str = ""
    """What people call the value, where it has a name."""


@dataclass(frozen=True)
class Breakdown:
    """Records by a value of theirs."""

    num: int
    """Values."""
    rows: tuple[Row, ...]
    """Those with the most bytes first."""
    others: Row | None
    """All that is not among them."""
    profile: tuple[int, ...]
    """How many records values have, the most first: of each, or of so many of them at equal distances."""


def breakdown(
    columns: Columns, key: str, word: Callable[[int], str] = str, names: Mapping[int, str] = MappingProxyType({})
) -> Breakdown:
    """Records and bytes by ``class_id``, ``phase`` or ``learner``.

    Args:
        word: a value as it is written.
        names: of values.
    """
    found = totals(columns, key)
    order = np.argsort(-found.bytes, kind="stable")
    rows = tuple(
        Row(word(value), count, num_bytes, names.get(value, ""))
        for value, count, num_bytes in found.rows(order[:MOST_ROWS])
    )
    rest = order[MOST_ROWS:]
    others = Row("", int(found.counts[rest].sum()), int(found.bytes[rest].sum())) if len(rest) else None
    return Breakdown(len(order), rows, others, _profile(found.counts))


def _profile(counts: NDArray[np.int64]) -> tuple[int, ...]:
    descending = np.sort(counts)[::-1]
    places = np.linspace(0, len(descending) - 1, min(len(descending), _PROFILE_POINTS))
    return tuple(descending[places.round().astype(np.int64)].tolist())
