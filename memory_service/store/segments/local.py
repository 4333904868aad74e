"""Segments as files: ``<stem>.open``, a run of bodies that still grows, and sealed ``<stem>.zarr.zip``, a Zarr v3 group
in an uncompressed ZIP. A record is one ``pread`` in either."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from memory_format import BusyError, checksum
from memory_service.store.pure.change import Body
from memory_service.store.pure.erasing import Targets
from memory_service.store.segments import files, leftovers
from memory_service.store.segments.appending import OpenSegment, Part
from memory_service.store.segments.base import (
    Erased,
    Held,
    KnownFiles,
    Names,
    Place,
    Prefix,
    SegmentGoneError,
    Segments,
    damaged_record,
)
from memory_service.store.segments.descriptors import Descriptor, Descriptors
from memory_service.store.segments.files import storage_error
from memory_service.store.segments.layout import BODY_AT, SegmentContents, read_contents, seal_frame

logger = logging.getLogger(__name__)


class SegmentFiles(Segments):
    """The segment files of a store, and a bounded number of descriptors to read them.

    Args:
        directory: where the files lie; made when it does not exist.
        names: names new files.
        max_open: descriptors kept open. More may be in use at once; then the extra ones are closed after use.
    """

    def __init__(self, directory: Path, names: Names, *, max_open: int = 256) -> None:
        super().__init__(names)
        self._directory = directory
        self.open = Descriptors(self._open_for_reading, max_open)
        self.damaged: set[tuple[str, int]] = set()
        """Segment and offset of records found damaged since the store was opened."""
        directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)

    def _write(
        self, before: OpenSegment | None, after: OpenSegment, bodies: Sequence[Body], owner: Mapping[str, Any] | None
    ) -> int:
        path = self._path(after.stem, files.OPEN)
        try:
            descriptor = files.create(path) if before is None else files.open_for_writing(path)
        except OSError:
            if before is None:
                self._names.stems_gone([after.stem])
            raise
        try:
            # The place of the ZIP's first header is filled in when the segment is sealed.
            pieces = [bytes(BODY_AT), *bodies] if before is None else list(bodies)
            end = files.write_at(descriptor, pieces, 0 if before is None else before.end)
            assert end == after.end
            if owner is not None:
                first, tail = seal_frame(after.headers(), after.learners, after.body_bytes, after.crc32, owner)
                end = files.write_at(descriptor, [tail], end)
                files.write_at(descriptor, [first], 0)
            files.sync(descriptor)
            if owner is not None:
                files.rename(path, self._path(after.stem, files.SEALED))
        except OSError:
            os.close(descriptor)
            self._restore(after.stem, before)
            raise
        os.close(descriptor)
        return end

    def noted(self, parts: Iterable[Part]) -> None:
        """There is nothing to do."""

    def _settle(self, parts: Sequence[Part]) -> None:
        if any(part.before is None for part in parts):
            files.sync_directory(self._directory)

    def _restore(self, stem: str, segment: OpenSegment | None) -> None:
        if segment is None:
            self.delete([stem])
            return
        try:
            path = self._path(stem, files.OPEN)
            if not path.exists():
                files.rename(self._path(stem, files.SEALED), path)
            descriptor = files.open_for_writing(path)
            try:
                files.truncate(descriptor, segment.end)
            finally:
                os.close(descriptor)
        except OSError:
            logger.exception("segment %s keeps bytes that do not count; the next start cuts them off", stem)

    def room_to_hold(self) -> int:
        return self.open.room

    def hold(self, stems: Sequence[str], first: int = 0, *, wait: bool = True) -> HeldFiles:
        return HeldFiles(self, stems, self.open.take(stems, wait=wait), first)

    def read_prefixes(self, stem: str, places: Sequence[Prefix]) -> list[bytes]:
        with self.hold([stem]) as held:
            try:
                return [os.pread(held.descriptors[0].number, wanted, offset) for offset, wanted, *_ in places]
            except OSError as error:
                raise storage_error(f"read segment {stem}", error) from error

    def bodies_of(self, segment: OpenSegment) -> bytes:
        return self.read_prefixes(segment.stem, [(BODY_AT, segment.body_bytes, segment.body_bytes, 0)])[0]

    def contents(self, stem: str) -> SegmentContents:
        return read_contents(self.path(stem))

    def sweep(self, known: KnownFiles, *, trusted: bool) -> set[str]:
        leftovers.clear(self._directory, known, trusted=trusted)
        return set(known.intents)

    def delete(self, stems: Iterable[str]) -> None:
        for stem in stems:
            self.open.remove(stem)
            gone = True
            for suffix in (files.SEALED, files.OPEN):
                try:
                    with suppress(FileNotFoundError):
                        files.unlink(self._path(stem, suffix))
                except OSError:
                    gone = False
                    self.orphans.add(stem + suffix)
                    logger.exception("cannot remove segment %s; it is swept at the next start", stem)
            if gone:
                self._names.stems_gone([stem])

    def expect_gone(self, erased: Erased, seconds: float) -> None:
        try:
            for name in sorted(self.orphans):
                with suppress(FileNotFoundError):
                    files.unlink(self._directory / name)
                self.orphans.discard(name)
                self._names.stems_gone([name.partition(".")[0]])
            files.sync_directory(self._directory)
        except OSError as error:
            raise storage_error("remove segments", error) from error
        if stem := self.open.wait_until_read(seconds):
            raise BusyError(f"segment {stem} was removed, and somebody still reads it; ask again")

    def overwrite_aside(self, targets: Targets, bodies: Callable[[], Iterable[bytes | memoryview]]) -> list[str]:
        try:
            return leftovers.overwrite(self._directory.parent, targets, bodies)
        except OSError as error:
            raise storage_error(f"overwrite a record in {leftovers.QUARANTINE}", error) from error

    def path(self, stem: str) -> Path:
        """Where a segment is now."""
        sealed = self._path(stem, files.SEALED)
        return sealed if sealed.exists() else self._path(stem, files.OPEN)

    def close(self) -> None:
        self.open.close()

    def _path(self, stem: str, suffix: str) -> Path:
        return self._directory / (stem + suffix)

    def _open_for_reading(self, stem: str) -> int:
        # Sealing renames: a file that is under neither name when looked at is under the other by now.
        for suffix in (files.SEALED, files.OPEN, files.SEALED):
            try:
                return files.open_for_reading(self._path(stem, suffix))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(f"open segment {stem}", error) from error
        raise SegmentGoneError(stem)


class HeldFiles(Held):
    """Segments that are read from: see :meth:`SegmentFiles.hold`."""

    def __init__(
        self, owner: SegmentFiles, stems: Sequence[str], descriptors: Sequence[Descriptor], first: int
    ) -> None:
        self._owner = owner
        self._first = first
        self._stems = stems
        self.descriptors = descriptors

    def read(self, places: Iterable[Place], target: memoryview, *, wait: bool = True) -> None:
        numbers = [descriptor.number for descriptor in self.descriptors]
        cached = None if wait else files.CachedReads(target)
        for number, offset, length, crc32, at in places:
            which = number - self._first
            body = target[at : at + length]
            if cached is not None:
                if not cached.read(numbers[which], body, offset, at):
                    raise BlockingIOError(f"segment {self._stems[which]} is not in the page cache")
                found = length
            else:
                try:
                    found = files.read_into(numbers[which], body, offset)
                except OSError as error:
                    raise storage_error(f"read segment {self._stems[which]}", error) from error
            if found != length or checksum.crc32(body) != crc32:
                self._owner.damaged.add((self._stems[which], offset))
                raise damaged_record(self._stems[which], offset)

    def expect_sound(self, places: Iterable[Place]) -> None:
        if self._owner.damaged:
            for number, offset, *_ in places:
                stem = self._stems[number - self._first]
                if (stem, offset) in self._owner.damaged:
                    raise damaged_record(stem, offset)

    def file_descriptors(self) -> list[int]:
        return [descriptor.number for descriptor in self.descriptors]

    def close(self) -> None:
        descriptors, self.descriptors = self.descriptors, ()
        if descriptors:
            self._owner.open.let_go(self._stems, descriptors)
