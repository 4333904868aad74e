"""The segments as a store sees them: records appended one after another, sealed, read, removed.

Implementations of :class:`Segments` decide where they lie. A segment is *open* while it grows: what of it counts, and
the headers of its records, are in the index. *Sealed* it says everything itself and never changes again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from memory_format import StorageError, checksum
from memory_format.wire import Batch
from memory_service.store.pure.change import Body
from memory_service.store.pure.erasing import Targets
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments import appending
from memory_service.store.segments.appending import MAX_SEGMENT_RECORDS, OpenSegment, Part, empty, fitting
from memory_service.store.segments.files import storage_error
from memory_service.store.segments.layout import SegmentContents

Place = tuple[int, int, int, int, int]
"""Where a body is and goes: which of the segments held, its offset there, length and CRC-32, offset in the target."""

Prefix = tuple[int, int, int, int]
"""The beginning of a body: its offset in the segment, the bytes wanted, the body's length and CRC-32."""


class SegmentGoneError(Exception):
    """The segment was deleted since its place was looked up; look again."""


@dataclass(frozen=True)
class KnownFiles:
    """What the index says of the files."""

    segments: Mapping[str, tuple[int, int, bool]]
    """Stem -> bytes that count, records, whether it is sealed."""
    intents: Mapping[str, bool]
    """Stem -> whether it is to go; else it was about to be made."""
    next_ids: Mapping[str, int]
    """Buffer -> the exemplar id that comes next."""
    uploads: Mapping[str, float] = field(default_factory=dict)
    """Stem of an intent -> seconds for which whoever uploads it may still be at it."""


@dataclass(frozen=True)
class Erased:
    """What is to be in no file any more."""

    targets: Targets
    buffers: Collection[str]
    """From which it was erased."""
    unrelated: Collection[tuple[str, float]]
    """Buffers that neither these nor any that they were forked from are: names, and when they were made."""


class Names(Protocol):
    """Whoever names files, and wants to know which are gone: the index."""

    def take_stem(self) -> str: ...

    def stems_gone(self, stems: Iterable[str]) -> None: ...


class Bodies(Names, Protocol):
    """An index that keeps the bodies of open segments, and knows of uploads."""

    @property
    def grace_seconds(self) -> float: ...

    def dead(self, stems: Sequence[str]) -> Mapping[str, bool]:
        """Which of some segments that were to go may go, and whether their names with them."""

    def leaving(self) -> Sequence[str]:
        """Segments that are to go, also those whose time has not come."""

    def uploading(self) -> Sequence[str]:
        """Segments that are put, or were to be put by changes that came to nothing."""

    def open_bodies(self, stem: str, known: int = 0) -> Sequence[bytes] | None:
        """Those of an open segment, in the pieces that were written, but those of its first ``known`` bytes; None where
        it has none of that name."""

    def begin_uploads(self, stems: Sequence[str], seconds: float) -> int:
        """Note, durably, that segments are uploaded for so long; returns the number of that change."""


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

    keeps_open: ClassVar[bool] = True
    """Whether bodies of open segments are kept here; else the index does (:class:`Bodies`). Then a sealed segment has
    a name of its own, and open ones are as good at the end as sealed ones."""

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
                before = segment or empty(self._names.take_stem())
                room, free = segment_bytes - before.body_bytes, MAX_SEGMENT_RECORDS - before.num_records
                last, full = fitting(lengths, first, room, free)
                of = slice(first, last)
                after, offsets = before.with_more(batch.headers[of], batch.learner_ids[of], lengths[of])
                sealed = full and segment_bytes >= appending.SMALLEST_SEALED
                if sealed and segment is not None:
                    after = self._sealed_name(after)
                bodies = batch.bodies[of]
                end = self._write(segment, after, bodies, owner if sealed else None)
                kept = () if sealed or self.keeps_open else tuple(bodies)
                parts.append(Part(segment, after, full, sealed, first, last, offsets, end, kept))
                segment, first = (None if full else after), last
            self._settle(parts)
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
        parts: list[Part] = []
        try:
            after, num = self._sealed_name(segment), segment.num_records
            end = self._write(segment, after, (), owner)
            parts.append(Part(segment, after, True, True, num, num, np.zeros(0, np.int64), end))
            self._settle(parts)
        except StorageError:
            self.undo(parts)
            raise
        except OSError as error:
            self.undo(parts)
            raise storage_error("seal a segment", error) from error
        return parts[0]

    def _sealed_name(self, segment: OpenSegment) -> OpenSegment:
        """An open segment as it is called once it is sealed."""
        return segment if self.keeps_open else replace(segment, stem=self._names.take_stem())

    def undo(self, parts: Iterable[Part]) -> None:
        """Take back what :meth:`append` or :meth:`seal` has written."""
        for part in parts:
            self._restore(part.after.stem, part.before)

    @abstractmethod
    def noted(self, parts: Iterable[Part]) -> None:
        """The index knows of these, durably."""

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
    def _settle(self, parts: Sequence[Part]) -> None:
        """These were written: make durable what :meth:`_write` has left, such as the names of new ones.

        Raises:
            OSError, StorageError: that failed.
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
    def read_prefixes(self, stem: str, places: Sequence[Prefix]) -> list[bytes]:
        """The first bytes of bodies; unchecked, where they are at hand.

        Raises:
            SegmentGoneError: it does not exist (any more).
            StorageError: ``storage_failed``.
        """

    @abstractmethod
    def bodies_of(self, segment: OpenSegment) -> bytes:
        """All bodies of an open segment, end to end. Raises as :meth:`read_prefixes`."""

    def with_crc(self, segment: OpenSegment) -> OpenSegment:
        """An open segment of the index, which does not say its CRC: that follows from the bytes. Raises as
        :meth:`read_prefixes`."""
        return replace(segment, crc32=checksum.crc32(self.bodies_of(segment)))

    @abstractmethod
    def contents(self, stem: str) -> SegmentContents:
        """All that a sealed segment says of its records.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """

    # What others have changed: asked for where the index is shared, and files of one machine never are.

    def changed_elsewhere(self, segments: Iterable[SegmentState]) -> None:
        """Other processes have made these of a buffer's segments, which the index names."""
        raise NotImplementedError(f"{type(self).__name__} are of one process")

    def forget(self, stems: Iterable[str]) -> None:
        """Other processes have let go of these, and remove them."""
        raise NotImplementedError(f"{type(self).__name__} are of one process")

    def keep_only(self, stems: Iterable[str], seconds: float) -> None:
        """There is no copy of any other segment, and nobody reads one.

        Args:
            seconds: how long to wait for those who read them.

        Raises:
            BusyError: somebody still reads one.
        """
        raise NotImplementedError(f"{type(self).__name__} are of one process")

    # Removing

    @abstractmethod
    def delete(self, stems: Iterable[str]) -> None:
        """Remove segments. One that cannot be removed is logged and left to the next start's sweep."""

    @abstractmethod
    def expect_gone(self, erased: Erased, seconds: float) -> None:
        """Segments that were removed and may have what is erased are gone for good, and nobody has them open any more.
        So is what was put for changes that came to nothing: no change that has what is erased is under way any more.

        Args:
            seconds: how long to wait for those who read them.

        Raises:
            BusyError: somebody still reads one.
            StorageError: one could not be removed, or not durably, or it cannot be told now.
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
    def sweep(self, known: KnownFiles, *, trusted: bool) -> set[str]:
        """Bring the segments to what the index says of them, at a start: what a crash has left goes. Returns the
        stems of intents that are done with.

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
