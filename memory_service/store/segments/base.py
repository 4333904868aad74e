"""What is written to segments and read from them: the values that pass between a store and its segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memory_format.header import HEADER_DTYPE
from memory_service.store.pure.ledger import open_row_bytes
from memory_service.store.segments.layout import BODY_AT

Place = tuple[int, int, int, int, int]
"""Where a body is and goes: which of the segments held, its offset there, length and CRC-32, offset in the target."""


class SegmentGoneError(Exception):
    """The segment was deleted since its place was looked up; look again."""


@dataclass(frozen=True)
class OpenSegment:
    """A segment that grows, as of one commit. Appending gives another value; this one stays true."""

    stem: str
    end: int
    """File offset behind the last body."""
    crc32: int
    """Of all bodies, end to end."""
    chunks: tuple[NDArray[np.void], ...]
    """Headers of its records, ``offset`` within the bodies."""
    learners: tuple[str, ...]
    num_records: int

    @property
    def body_bytes(self) -> int:
        return self.end - BODY_AT

    def headers(self) -> NDArray[np.void]:
        return np.concatenate([*self.chunks, np.zeros(0, HEADER_DTYPE)])

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where its bodies begin in the file, and their lengths, ``(num_records,)`` each."""
        starts = self.headers()["offset"].astype(np.int64) + BODY_AT
        return starts, np.diff(np.append(starts, self.end))


@dataclass(frozen=True)
class Part:
    """What one write added to one segment: records ``first`` to ``last`` (exclusive) of those handed over."""

    before: OpenSegment | None
    """None for a new file."""
    after: OpenSegment
    full: bool
    """Whether the next record goes to another segment."""
    sealed: bool
    first: int
    last: int
    offsets: NDArray[np.int64]
    """Where each body begins in the file, ``(last - first,)``."""
    file_bytes: int

    @property
    def new_learners(self) -> tuple[str, ...]:
        """Learner ids that were new to the segment."""
        return self.after.learners[len(self.before.learners) if self.before else 0 :]

    @property
    def open_bytes(self) -> int:
        """What the index takes for it while the segment is open."""
        return open_row_bytes(len(self.after.chunks[-1]), self.new_learners)


def totals_of(parts: Sequence[Part]) -> tuple[int, int]:
    """How many segments parts of new ones come to, and the bytes that those take on disk and in the index."""
    last = {part.after.stem: part for part in parts}
    open_bytes = sum(part.open_bytes for part in parts if not last[part.after.stem].sealed)
    return len(last), open_bytes + sum(part.file_bytes for part in last.values())


class Names(Protocol):
    """Whoever names files, and wants to know which are gone: the index."""

    def take_stem(self) -> str: ...

    def stems_gone(self, stems: Iterable[str]) -> None: ...
