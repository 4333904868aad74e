"""Segment files: records appended one after another, sealed into Zarr v3 groups in uncompressed ZIP files.

An *open* segment, ``<stem>.open``, is a run of bodies that still grows; how much of it counts, and the headers
of its records, are in the index. Sealed, as ``<stem>.zarr.zip``, it says everything itself and never changes
again. A record is one ``pread`` in either.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import StorageError, checksum
from memory_format.header import HEADER_DTYPE
from memory_service.store.segments import files
from memory_service.store.segments.base import Names, OpenSegment, Part, Place, SegmentGoneError
from memory_service.store.segments.files import storage_error
from memory_service.store.segments.layout import BODY_AT, frame_bytes, seal_frame

logger = logging.getLogger(__name__)

MAX_SEGMENT_RECORDS: Final = 65_536
"""So that the place of a learner id in the segment's list fits its uint16."""

SMALLEST_SEALED: Final = 256 * 1024
"""Bytes of bodies below which the frame of a sealed file, some 13 kB, is too much: such a segment stays open."""

SEALED: Final = ".zarr.zip"
OPEN: Final = ".open"
OWN_NAME = re.compile(r"([0-9a-f]{32})(\.zarr\.zip|\.open)")


class SegmentFiles:
    """The segment files of a store, and a bounded number of descriptors to read them.

    Args:
        directory: where the files lie; made when it does not exist.
        names: names new files.
        max_open: descriptors kept open. More may be in use at once; then the extra ones are closed after use.
    """

    def __init__(self, directory: Path, names: Names, *, max_open: int = 256) -> None:
        self._directory = directory
        self._names = names
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        self._num_in_use = 0
        self.orphans: set[str] = set()
        """Names of files that could not be removed; the next start tries again."""
        self.damaged: set[tuple[str, int]] = set()
        """Segment and offset of records found damaged since the store was opened."""
        directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)

    def append(
        self,
        segment: OpenSegment | None,
        headers: NDArray[np.void],
        learner_ids: Sequence[str],
        bodies: Sequence[files.Buffer],
        *,
        segment_bytes: int,
        owner: Mapping[str, Any],
    ) -> list[Part]:
        """Write records durably behind those of ``segment``, and in as many further files as they ask for.

        Args:
            segment: the open segment to go on with, None to begin one.
            headers: ``(N,)`` of ``HEADER_DTYPE``; ``offset`` and ``learner`` are filled in here.
            learner_ids: N learner ids.
            bodies: N bodies, whose CRCs are those of the headers.
            segment_bytes: a segment is full once its bodies reach this; of at least :data:`SMALLEST_SEALED`,
                it is sealed then.
            owner: what a sealed segment says of its buffer, :func:`memory_service.store.segments.owner.owner_of`.

        Raises:
            StorageError: ``storage_failed``; what was there before is untouched.
        """
        parts: list[Part] = []
        lengths = [len(body) for body in bodies]
        created = False
        try:
            first = 0
            while first < len(bodies):
                room, free = segment_bytes, MAX_SEGMENT_RECORDS
                if segment is not None:
                    room, free = room - segment.body_bytes, free - segment.num_records
                last, full = _fitting(lengths, first, room, free)
                part = slice(first, last)
                created |= segment is None
                sealing = owner if full and segment_bytes >= SMALLEST_SEALED else None
                written = self._append_part(segment, first, headers[part], learner_ids[part], bodies[part], sealing)
                parts.append(replace(written, full=full))
                segment, first = (None if full else parts[-1].after), last
            if created:
                files.sync_directory(self._directory)
        except StorageError:
            self.undo(parts)
            raise
        except OSError as error:
            self.undo(parts)
            raise storage_error("write a segment", error) from error
        return parts

    def _append_part(
        self,
        before: OpenSegment | None,
        first: int,
        headers: NDArray[np.void],
        learner_ids: Sequence[str],
        bodies: Sequence[files.Buffer],
        sealing: Mapping[str, Any] | None,
    ) -> Part:
        old = before or OpenSegment(self._names.take_stem(), BODY_AT, 0, (), (), 0)
        codes = {learner_id: code for code, learner_id in enumerate(old.learners)}
        lengths = np.fromiter((len(body) for body in bodies), dtype=np.int64, count=len(bodies))
        offsets = old.end + np.cumsum(lengths) - lengths
        chunk = headers.copy()
        chunk["offset"] = offsets - BODY_AT
        chunk["learner"] = [codes.setdefault(learner_id, len(codes)) for learner_id in learner_ids]
        crc32 = checksum.crc32_of_all(old.crc32, headers["crc32"].tolist(), lengths.tolist())
        end = old.end + int(lengths.sum())
        num_records = old.num_records + len(chunk)
        after = OpenSegment(old.stem, end, crc32, (*old.chunks, chunk), tuple(codes), num_records)
        path = self._path(old.stem, OPEN)
        try:
            descriptor = files.create(path) if before is None else files.open_for_writing(path)
        except OSError:
            if before is None:
                self._names.stems_gone([old.stem])
            raise
        try:
            # The place of the ZIP's first header is filled in when the segment is sealed.
            pieces = [bytes(BODY_AT), *bodies] if before is None else list(bodies)
            end = files.write_at(descriptor, pieces, 0 if before is None else old.end)
            assert end == after.end
            if sealing is not None:
                end = _write_frame(descriptor, after, sealing)
            files.sync(descriptor)
            if sealing is not None:
                files.rename(path, self._path(old.stem, SEALED))
        except OSError:
            os.close(descriptor)
            self._restore(old.stem, before)
            raise
        os.close(descriptor)
        seal = sealing is not None
        return Part(before, after, seal, seal, first, first + len(bodies), offsets, end)

    def seal(self, segment: OpenSegment, owner: Mapping[str, Any]) -> Part:
        """Make a Zarr group of an open segment, without another record.

        Raises:
            StorageError: ``storage_failed``; the segment stays open.
        """
        path = self._path(segment.stem, OPEN)
        try:
            descriptor = files.open_for_writing(path)
            try:
                end = _write_frame(descriptor, segment, owner)
                files.sync(descriptor)
                files.rename(path, self._path(segment.stem, SEALED))
            finally:
                os.close(descriptor)
        except OSError as error:
            self._restore(segment.stem, segment)
            raise storage_error("seal a segment", error) from error
        num = segment.num_records
        return Part(segment, segment, True, True, num, num, np.zeros(0, np.int64), end)

    def undo(self, parts: Iterable[Part]) -> None:
        """Take back what :meth:`append` or :meth:`seal` has written."""
        for part in parts:
            self._restore(part.after.stem, part.before)

    def _restore(self, stem: str, segment: OpenSegment | None) -> None:
        """Bring a file back to what it was; where that fails too, the next start does it."""
        if segment is None:
            self.delete([stem])
            return
        try:
            path = self._path(stem, OPEN)
            if not path.exists():
                files.rename(self._path(stem, SEALED), path)
            descriptor = files.open_for_writing(path)
            try:
                files.truncate(descriptor, segment.end)
            finally:
                os.close(descriptor)
        except OSError:
            logger.exception("segment %s keeps bytes that do not count; the next start cuts them off", stem)

    def room_to_hold(self) -> int:
        """How many segments can be held for long, beside those that are in use now, within ``max_open``."""
        return self._max_open - self._num_in_use

    def hold(self, stems: Sequence[str], first: int = 0, *, wait: bool = True) -> Held:
        """Segments to read from; use it as a context manager. They stay readable until its end, removed or not.

        Args:
            first: the number by which places name the first of them.
            wait: for files to be opened, for another thread too.

        Raises:
            SegmentGoneError: a file does not exist (any more).
            BlockingIOError: without ``wait``, not all of them are open, or a thread is at it.
            StorageError: ``storage_failed``.
        """
        # Counted, so that neither the bound nor a deletion closes a descriptor in use: its number could be
        # given to another file, and the read would return that file's bytes.
        found: list[_Descriptor] = []
        if not self._lock.acquire(blocking=wait):
            raise BlockingIOError("another thread opens or closes segments")
        try:
            for stem in stems:
                held = self._open.get(stem)
                if held is None:
                    if not wait:
                        raise BlockingIOError(f"segment {stem} is not open")
                    held = self._open[stem] = _Descriptor(self._open_for_reading(stem))
                self._open.move_to_end(stem)
                self._num_in_use += held.users == 0
                held.users += 1
                found.append(held)
            self._close_surplus()
        except BaseException:
            self._let_go(stems, found)
            raise
        finally:
            self._lock.release()
        return Held(self, stems, found, first)

    def read_prefixes(self, stem: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """The first bytes of bodies, unchecked: ``places`` are offsets in the file and lengths.

        Raises:
            SegmentGoneError: the file does not exist (any more).
            StorageError: ``storage_failed``.
        """
        with self.hold([stem]) as held:
            try:
                return [os.pread(held.descriptors[0].number, length, offset) for offset, length in places]
            except OSError as error:
                raise storage_error(f"read segment {stem}", error) from error

    def bodies_of(self, segment: OpenSegment) -> bytes:
        """All bodies of an open segment, end to end.

        Raises:
            SegmentGoneError: the file does not exist (any more).
            StorageError: ``storage_failed``.
        """
        with self.hold([segment.stem]) as held:
            try:
                return os.pread(held.descriptors[0].number, segment.body_bytes, BODY_AT)
            except OSError as error:
                raise storage_error(f"read segment {segment.stem}", error) from error

    def delete(self, stems: Iterable[str]) -> None:
        """Remove files. One that cannot be removed is logged and left to the next start's sweep."""
        for stem in stems:
            with self._lock:
                held = self._open.pop(stem, None)
                if held is not None and held.users == 0:
                    os.close(held.number)
            gone = True
            for suffix in (SEALED, OPEN):
                try:
                    with suppress(FileNotFoundError):
                        files.unlink(self._path(stem, suffix))
                except OSError:
                    gone = False
                    self.orphans.add(stem + suffix)
                    logger.exception("cannot remove segment %s; it is swept at the next start", stem)
            if gone:
                self._names.stems_gone([stem])

    def path(self, stem: str) -> Path:
        """Where a segment is now."""
        sealed = self._path(stem, SEALED)
        return sealed if sealed.exists() else self._path(stem, OPEN)

    def close(self) -> None:
        with self._lock:
            for held in self._open.values():
                os.close(held.number)
            self._open.clear()

    def _path(self, stem: str, suffix: str) -> Path:
        return self._directory / (stem + suffix)

    def _open_for_reading(self, stem: str) -> int:
        # Sealing renames: a file that is under neither name when looked at is under the other by now.
        for suffix in (SEALED, OPEN, SEALED):
            try:
                return files.open_for_reading(self._path(stem, suffix))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(f"open segment {stem}", error) from error
        raise SegmentGoneError(stem)

    def release(self, stems: Sequence[str], descriptors: Sequence[_Descriptor]) -> None:
        """The end of :meth:`hold`."""
        with self._lock:
            self._let_go(stems, descriptors)

    def _let_go(self, stems: Sequence[str], descriptors: Sequence[_Descriptor]) -> None:
        for stem, held in zip(stems, descriptors, strict=False):
            held.users -= 1
            self._num_in_use -= held.users == 0
            if held.users == 0 and self._open.get(stem) is not held:
                os.close(held.number)
        self._close_surplus()

    def _close_surplus(self) -> None:
        surplus = len(self._open) - self._max_open
        if surplus > 0:
            idle = [stem for stem, held in self._open.items() if held.users == 0]
            for stem in idle[:surplus]:
                os.close(self._open.pop(stem).number)


@dataclass
class _Descriptor:
    number: int
    users: int = 0


class Held:
    """Segments that are read from: see :meth:`SegmentFiles.hold`."""

    def __init__(
        self, owner: SegmentFiles, stems: Sequence[str], descriptors: Sequence[_Descriptor], first: int
    ) -> None:
        self._owner = owner
        self._first = first
        self._stems = stems
        self.descriptors = descriptors

    def read(self, places: Iterable[Place], target: memoryview, *, wait: bool = True) -> None:
        """Read bodies into ``target``, each checked against its CRC.

        Args:
            wait: for the disk.

        Raises:
            BlockingIOError: without ``wait``, not all of them are in the page cache.
            StorageError: ``corrupt_record``, or ``storage_failed`` where a file cannot be read.
        """
        numbers = [descriptor.number for descriptor in self.descriptors]
        cached = None if wait else files.CachedReads(target)
        for number, offset, length, crc32, at in places:
            which = number - self._first
            body = target[at : at + length]
            if cached is not None:
                if not cached.read(numbers[which], length, offset, at):
                    raise BlockingIOError(f"segment {self._stems[which]} is not in the page cache")
                found = length
            else:
                try:
                    found = files.read_into(numbers[which], body, offset)
                except OSError as error:
                    raise storage_error(f"read segment {self._stems[which]}", error) from error
            if found != length or checksum.crc32(body) != crc32:
                self._owner.damaged.add((self._stems[which], offset))
                raise _damaged(self._stems[which], offset)

    def expect_sound(self, places: Iterable[Place]) -> None:
        """Raises:
        StorageError: ``corrupt_record``: one of these was found damaged before.
        """
        if self._owner.damaged:
            for number, offset, *_ in places:
                stem = self._stems[number - self._first]
                if (stem, offset) in self._owner.damaged:
                    raise _damaged(stem, offset)

    def close(self) -> None:
        descriptors, self.descriptors = self.descriptors, ()
        if descriptors:
            self._owner.release(self._stems, descriptors)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _damaged(stem: str, offset: int) -> StorageError:
    return StorageError(
        f"the record at byte {offset} of segment {stem} is damaged: its CRC-32 differs; stop the service and run "
        "`memory-service repair` on its store",
        code="corrupt_record",
        segment=stem,
        offset=offset,
    )


def added_bytes(segment: OpenSegment | None, lengths: Sequence[int], learner_bytes: int, segment_bytes: int) -> int:
    """An upper bound of what :meth:`SegmentFiles.append` adds to the disk.

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


def _write_frame(descriptor: int, segment: OpenSegment, owner: Mapping[str, Any]) -> int:
    first, tail = seal_frame(segment.headers(), segment.learners, segment.body_bytes, segment.crc32, owner)
    end = files.write_at(descriptor, [tail], segment.end)
    files.write_at(descriptor, [first], 0)
    return end


def _fitting(lengths: Sequence[int], first: int, room: int, free: int) -> tuple[int, bool]:
    """Where the segment's share of the records ends, and whether that fills it."""
    total = 0
    for index in range(first, len(lengths)):
        total += lengths[index]
        if total >= room or index - first + 1 >= free:
            return index + 1, True
    return len(lengths), False
