"""The segments as a store sees them: records appended one after another, sealed, read, removed.

Implementations of :class:`Segments` decide where they lie. A segment is *open* while it grows: what of it counts, and
the headers of its records, are in the index. *Sealed* it says everything itself and never changes again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from memory_format import StorageError, checksum
from memory_format.header import HEADER_DTYPE
from memory_format.wire import Batch
from memory_service.store.pure.change import Body
from memory_service.store.pure.erasing import Targets
from memory_service.store.pure.ledger import open_row_bytes
from memory_service.store.segments.files import storage_error
from memory_service.store.segments.layout import BODY_AT, SegmentContents, frame_bytes

MAX_SEGMENT_RECORDS: Final = 65_536
"""So that the place of a learner id in the segment's list fits its uint16."""

SMALLEST_SEALED: Final = 256 * 1024
"""Bytes of bodies below which the frame of a sealed file, some 13 kB, is too much: such a segment stays open."""

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


@dataclass(frozen=True)
class KnownFiles:
    """What the index says of the files."""

    segments: Mapping[str, tuple[int, int, bool]]
    """Stem -> bytes that count, records, whether it is sealed."""
    intents: Mapping[str, bool]
    """Stem -> whether it is to go; else it was about to be made."""
    next_ids: Mapping[str, int]
    """Buffer -> the exemplar id that comes next."""


class Names(Protocol):
    """Whoever names files, and wants to know which are gone: the index."""

    def take_stem(self) -> str: ...

    def stems_gone(self, stems: Iterable[str]) -> None: ...


class Held(ABC):
    """Segments that are read from: see :meth:`Segments.hold`. Use it as a context manager, or close it."""

    @abstractmethod
    def read(self, places: Iterable[Place], target: memoryview, *, wait: bool = True) -> None:
        """Read bodies into ``target``, each checked against its CRC.

        Args:
            wait: for the disk.

        Raises:
            BlockingIOError: without ``wait``, not all of them are at hand.
            StorageError: ``corrupt_record``, or ``storage_failed`` where a segment cannot be read.
        """

    @abstractmethod
    def expect_sound(self, places: Iterable[Place]) -> None:
        """Raises:
        StorageError: ``corrupt_record``: one of these was found damaged before.
        """

    def file_descriptors(self) -> list[int] | None:
        """Descriptors to read them by in another process too, open until the end; None where they are no files."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Nothing more is read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Segments(ABC):
    """All segments of a store, new ones named by ``names``. Its methods may be called by any thread, those that write
    by one at a time a segment."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.orphans: set[str] = set()
        """Names of what could not be removed; the next start tries again."""

    # Writing

    def append(
        self, segment: OpenSegment | None, batch: Batch, *, segment_bytes: int, owner: Mapping[str, Any]
    ) -> list[Part]:
        """Write records durably behind those of ``segment``, and in as many further segments as they ask for.

        Args:
            segment: the open segment to go on with, None to begin one.
            batch: the records; what their headers say of ``offset`` and ``learner`` does not matter.
            segment_bytes: a segment is full once its bodies reach this; of at least :data:`SMALLEST_SEALED`,
                it is sealed then.
            owner: what a sealed segment says of its buffer, :func:`memory_service.store.segments.owner.owner_of`.

        Raises:
            StorageError: ``storage_failed``; what was there before is untouched.
        """
        parts: list[Part] = []
        lengths = [len(body) for body in batch.bodies]
        try:
            first = 0
            while first < len(lengths):
                before = segment or OpenSegment(self._names.take_stem(), BODY_AT, 0, (), (), 0)
                room, free = segment_bytes - before.body_bytes, MAX_SEGMENT_RECORDS - before.num_records
                last, full = _fitting(lengths, first, room, free)
                of = slice(first, last)
                after, offsets = before.with_more(batch.headers[of], batch.learner_ids[of], lengths[of])
                sealed = full and segment_bytes >= SMALLEST_SEALED
                end = self._write(segment, after, batch.bodies[of], owner if sealed else None)
                parts.append(Part(segment, after, full, sealed, first, last, offsets, end))
                segment, first = (None if full else after), last
            if any(part.before is None for part in parts):
                self._settle_names()
        except StorageError:
            self.undo(parts)
            raise
        except OSError as error:
            self.undo(parts)
            raise storage_error("write a segment", error) from error
        return parts

    def seal(self, segment: OpenSegment, owner: Mapping[str, Any]) -> Part:
        """Make a Zarr group of an open segment, without another record.

        Raises:
            StorageError: ``storage_failed``; the segment stays open.
        """
        try:
            end = self._write(segment, segment, (), owner)
        except OSError as error:
            raise storage_error("seal a segment", error) from error
        num = segment.num_records
        return Part(segment, segment, True, True, num, num, np.zeros(0, np.int64), end)

    def undo(self, parts: Iterable[Part]) -> None:
        """Take back what :meth:`append` or :meth:`seal` has written."""
        for part in parts:
            self._restore(part.after.stem, part.before)

    @abstractmethod
    def _write(
        self, before: OpenSegment | None, after: OpenSegment, bodies: Sequence[Body], owner: Mapping[str, Any] | None
    ) -> int:
        """Write bodies behind a segment's end, durably, or those of a new one; returns the bytes that it has then.

        Args:
            owner: where it is sealed then, as :meth:`append`.

        Raises:
            OSError: it could not be written, and is as before.
        """

    @abstractmethod
    def _settle_names(self) -> None:
        """New segments were made: make their names durable.

        Raises:
            OSError: that failed.
        """

    @abstractmethod
    def _restore(self, stem: str, segment: OpenSegment | None) -> None:
        """Bring a segment back to what it was, None = to nothing; where that fails, the next start does it."""

    # Reading

    @abstractmethod
    def hold(self, stems: Sequence[str], first: int = 0, *, wait: bool = True) -> Held:
        """Segments to read from. They stay readable until the end, removed or not.

        Args:
            first: the number by which places name the first of them.
            wait: for files to be opened, for another thread too.

        Raises:
            SegmentGoneError: one does not exist (any more).
            BlockingIOError: without ``wait``, not all of them are open, or a thread is at it.
            StorageError: ``storage_failed``.
        """

    @abstractmethod
    def room_to_hold(self) -> int:
        """How many segments can be held for long, beside those that are in use now."""

    @abstractmethod
    def read_prefixes(self, stem: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """The first bytes of bodies, unchecked: ``places`` are offsets in the segment and lengths.

        Raises:
            SegmentGoneError: it does not exist (any more).
            StorageError: ``storage_failed``.
        """

    def bodies_of(self, segment: OpenSegment) -> bytes:
        """All bodies of an open segment, end to end. Raises as :meth:`read_prefixes`."""
        return self.read_prefixes(segment.stem, [(BODY_AT, segment.body_bytes)])[0]

    @abstractmethod
    def contents(self, stem: str) -> SegmentContents:
        """All that a sealed segment says of its records.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """

    # Removing

    @abstractmethod
    def delete(self, stems: Iterable[str]) -> None:
        """Remove segments. One that cannot be removed is logged and left to the next start's sweep."""

    @abstractmethod
    def expect_gone(self, seconds: float) -> None:
        """Segments that were removed are gone for good, and nobody has them open any more.

        Args:
            seconds: how long to wait for those who read them.

        Raises:
            BusyError: somebody still reads one.
            StorageError: one could not be removed, or not durably.
        """

    @abstractmethod
    def overwrite_aside(self, targets: Targets, bodies: Callable[[], Iterable[bytes | memoryview]]) -> list[str]:
        """Overwrite records in files that were put aside, which no index knows; returns the names of those files.

        Args:
            bodies: of those records, as far as they can be read; called where there are such files.

        Raises:
            StorageError: one cannot be read or written.
        """

    @abstractmethod
    def sweep(self, known: KnownFiles, *, trusted: bool) -> None:
        """Bring the segments to what the index says of them, at a start: what a crash has left goes.

        Args:
            trusted: the index is as new as the segments. Otherwise nothing is removed.

        Raises:
            StorageError: a known segment is missing or cut short. Nothing has changed then.
            OSError: something cannot be moved, cut or removed.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of them."""


def damaged_record(stem: str, offset: int) -> StorageError:
    """That a record's CRC is not that of its body."""
    return StorageError(
        f"the record at byte {offset} of segment {stem} is damaged: its CRC-32 differs; stop the service and run "
        "`memory-service repair` on its store",
        code="corrupt_record",
        segment=stem,
        offset=offset,
    )


def _fitting(lengths: Sequence[int], first: int, room: int, free: int) -> tuple[int, bool]:
    """Where the segment's share of the records ends, and whether that fills it."""
    total = 0
    for index in range(first, len(lengths)):
        total += lengths[index]
        if total >= room or index - first + 1 >= free:
            return index + 1, True
    return len(lengths), False
