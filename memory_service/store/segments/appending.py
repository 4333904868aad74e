"""What is written to segments, as values: an open one as of one commit, and what one write added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format import checksum
from memory_format.header import HEADER_DTYPE
from memory_service.store.pure.change import Body
from memory_service.store.pure.ledger import open_row_bytes
from memory_service.store.segments.layout import BODY_AT, frame_bytes

MAX_SEGMENT_RECORDS: Final = 65_536
"""So that the place of a learner id in the segment's list fits its uint16."""

SMALLEST_SEALED: Final = 256 * 1024
"""Bytes of bodies below which the frame of a sealed file, some 13 kB, is too much: such a segment stays open."""


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

    def with_more(
        self, headers: NDArray[np.void], learner_ids: Sequence[str], lengths: Sequence[int]
    ) -> tuple[OpenSegment, NDArray[np.int64]]:
        """With more records, and where in the file the body of each of them begins.

        Args:
            headers: ``(N,)`` of ``HEADER_DTYPE``; ``offset`` and ``learner`` are filled in here.
            lengths: of the bodies.
        """
        codes = {learner_id: code for code, learner_id in enumerate(self.learners)}
        num_bytes = np.array(lengths, dtype=np.int64)
        ends = self.end + np.cumsum(num_bytes)
        offsets = ends - num_bytes
        chunk = headers.copy()
        chunk["offset"] = offsets - BODY_AT
        chunk["learner"] = [codes.setdefault(learner_id, len(codes)) for learner_id in learner_ids]
        crc32 = checksum.crc32_of_all(self.crc32, headers["crc32"].tolist(), list(lengths))
        chunks, num_records = (*self.chunks, chunk), self.num_records + len(chunk)
        return OpenSegment(self.stem, int(ends[-1]), crc32, chunks, tuple(codes), num_records), offsets

    def headers(self) -> NDArray[np.void]:
        return np.concatenate([*self.chunks, np.zeros(0, HEADER_DTYPE)])

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where its bodies begin in the file, and their lengths, ``(num_records,)`` each."""
        starts = self.headers()["offset"].astype(np.int64) + BODY_AT
        return starts, np.diff(np.append(starts, self.end))


def empty(stem: str) -> OpenSegment:
    """One without records."""
    return OpenSegment(stem, BODY_AT, 0, (), (), 0)


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
    bodies: tuple[Body, ...] = ()
    """Of the records, where the index is to keep them: see ``Segments.keeps_open``."""

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
    last: dict[str, Part] = {}
    for part in parts:
        if part.before is not None:
            # Sealed, it may have another name.
            last.pop(part.before.stem, None)
        last[part.after.stem] = part
    open_bytes = sum(part.open_bytes for part in parts if part.after.stem in last and not last[part.after.stem].sealed)
    return len(last), open_bytes + sum(part.file_bytes for part in last.values())


def without_sealed_bodies(parts: Sequence[Part]) -> list[Part]:
    """Parts without the bodies of segments that later ones have sealed: the index is not to keep those."""
    kept: list[Part] = []
    sealed: set[str] = set()
    for part in reversed(parts):
        goes = part.after.stem in sealed
        if part.before is not None and (goes or part.sealed):
            sealed.add(part.before.stem)
        kept.append(replace(part, bodies=()) if goes else part)
    return kept[::-1]


def added_bytes(segment: OpenSegment | None, lengths: Sequence[int], learner_bytes: int, segment_bytes: int) -> int:
    """An upper bound of what :meth:`Segments.append` adds to the disk.

    Args:
        lengths: of the bodies.
        learner_bytes: of all learner ids together, in UTF-8.
    """
    held, held_records = (0, 0) if segment is None else (segment.body_bytes, segment.num_records)
    total, num = held + sum(lengths), held_records + len(lengths)
    new_files = total // segment_bytes + num // MAX_SEGMENT_RECORDS + 1
    added = sum(lengths) + new_files * BODY_AT
    if segment_bytes < SMALLEST_SEALED or (total < segment_bytes and num < MAX_SEGMENT_RECORDS):
        return added
    known = () if segment is None else segment.learners
    return added + new_files * frame_bytes(0, known) + HEADER_DTYPE.itemsize * num + 6 * learner_bytes


def fitting(lengths: Sequence[int], first: int, room: int, free: int) -> tuple[int, bool]:
    """Where the segment's share of the records ends, and whether that fills it."""
    total = 0
    for index in range(first, len(lengths)):
        total += lengths[index]
        if total >= room or index - first + 1 >= free:
            return index + 1, True
    return len(lengths), False
