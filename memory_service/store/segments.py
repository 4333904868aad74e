"""Segment files: immutable Zarr v3 groups in uncompressed ZIP files, written and read without zarr-python.

One array per column of ``HEADER_DTYPE`` and one, ``body``, with the record bodies end to end; every array is
one uncompressed chunk, so a record is one ``pread`` at an offset that the index holds. docs/format.md
describes the arrays.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format import StorageError
from memory_service.store.layout import build_segment

logger = logging.getLogger(__name__)

MAX_SEGMENT_RECORDS: Final = 65_536
"""So that the place of a learner id in the segment's list fits its uint16."""

_SEGMENT_NAME = re.compile(r"[0-9a-f]{32}\.zarr\.zip")
_TEMPORARY_NAME = re.compile(r"[0-9a-f]{32}\.tmp")


class SegmentGoneError(Exception):
    """The file was deleted since its place was looked up; look again."""


@dataclass(frozen=True)
class WrittenSegment:
    """A new segment file. ``first`` and ``last`` (exclusive) say which of the records handed over it
    holds."""

    name: str
    file_bytes: int
    first: int
    last: int
    offsets: NDArray[np.int64]
    """Where each body begins in the file, ``(last - first,)``."""


class SegmentFiles:
    """The segment files of a store, and a bounded number of open file descriptors.

    Args:
        directory: where the files lie; made when it does not exist.
        max_open: descriptors kept open. More may be in use at once; then the extra ones are closed after use.
    """

    def __init__(self, directory: Path, *, max_open: int = 256) -> None:
        self._directory = directory
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        directory.mkdir(exist_ok=True)

    def write(
        self,
        headers: NDArray[np.void],
        learner_ids: Sequence[str],
        bodies: Sequence[bytes],
        *,
        segment_bytes: int,
    ) -> list[WrittenSegment]:
        """Write records durably, in as many files as their bytes ask for.

        Args:
            headers: ``(N,)`` of ``HEADER_DTYPE``; ``offset`` and ``learner`` are filled in here.
            learner_ids: N learner ids.
            bodies: N bodies.
            segment_bytes: a file is ended once its bodies reach this.

        Raises:
            StorageError: ``storage_failed``; nothing is left behind.
        """
        written: list[WrittenSegment] = []
        try:
            for first, last in _cut([len(body) for body in bodies], segment_bytes):
                part = slice(first, last)
                data, body_at, starts = build_segment(headers[part], learner_ids[part], bodies[part])
                name = self._write_file(data)
                written.append(WrittenSegment(name, len(data), first, last, body_at + starts))
            if written:
                _fsync_directory(self._directory)
        except OSError as error:
            self.delete(segment.name for segment in written)
            raise _storage_error("write a segment", error) from error
        return written

    def _write_file(self, data: memoryview) -> str:
        stem = uuid.uuid4().hex
        temporary, final = self._directory / f"{stem}.tmp", self._directory / f"{stem}.zarr.zip"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                rest = data
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, final)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return final.name

    def read(self, name: str, offsets: Sequence[int], lengths: Sequence[int], crcs: Sequence[int]) -> list[bytes]:
        """Bodies of one segment, each checked against its CRC.

        Raises:
            SegmentGoneError: the file does not exist (any more).
            StorageError: ``corrupt_record``, or ``storage_failed`` where the file cannot be read.
        """
        bodies = []
        with self._descriptor(name) as descriptor:
            for offset, length, crc32 in zip(offsets, lengths, crcs, strict=True):
                try:
                    body = os.pread(descriptor, length, offset)
                except OSError as error:
                    raise _storage_error(f"read segment {name}", error) from error
                if len(body) != length or zlib.crc32(body) != crc32:
                    raise StorageError(
                        f"the record at byte {offset} of segment {name} is damaged: its CRC-32 differs",
                        code="corrupt_record",
                        segment=name,
                        offset=offset,
                    )
                bodies.append(body)
        return bodies

    def delete(self, names: Iterable[str]) -> None:
        """Remove files. One that cannot be removed is logged and left to the next start's sweep."""
        for name in names:
            with self._lock:
                held = self._open.pop(name, None)
                if held is not None and held.users == 0:
                    os.close(held.number)
            try:
                (self._directory / name).unlink(missing_ok=True)
            except OSError:
                logger.exception("cannot remove segment %s; it is swept at the next start", name)

    def sweep(self, known: dict[str, int]) -> list[str]:
        """Remove files that no index row speaks of, and check that the known ones are there.

        Only for the holder of the store's lock: to anybody else a file in flight looks like an orphan.

        Args:
            known: name -> bytes of every segment in the index.

        Returns:
            the names removed.

        Raises:
            StorageError: a known segment is missing or of another size.
        """
        removed = []
        found: dict[str, int] = {}
        for entry in os.scandir(self._directory):
            if entry.name in known:
                found[entry.name] = entry.stat().st_size
            elif _SEGMENT_NAME.fullmatch(entry.name) or _TEMPORARY_NAME.fullmatch(entry.name):
                os.unlink(entry.path)
                removed.append(entry.name)
            else:
                logger.warning("%s is none of the store's files; left alone", entry.path)
        damaged = sorted(name for name, size in known.items() if found.get(name) != size)
        if damaged:
            raise StorageError(
                f"{len(damaged)} of {len(known)} segments are missing or cut short, first {damaged[0]}",
                segments=damaged[:16],
            )
        return removed

    def close(self) -> None:
        with self._lock:
            for held in self._open.values():
                os.close(held.number)
            self._open.clear()

    @contextmanager
    def _descriptor(self, name: str) -> Iterator[int]:
        # Counted, so that neither the bound nor a deletion closes a descriptor in use: its number could be
        # given to another file, and the read would return that file's bytes.
        with self._lock:
            held = self._open.get(name)
            if held is None:
                try:
                    held = _Descriptor(os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC))
                except FileNotFoundError:
                    raise SegmentGoneError(name) from None
                except OSError as error:
                    raise _storage_error(f"open segment {name}", error) from error
                self._open[name] = held
            self._open.move_to_end(name)
            held.users += 1
            self._close_surplus()
        try:
            yield held.number
        finally:
            with self._lock:
                held.users -= 1
                if held.users == 0 and self._open.get(name) is not held:
                    os.close(held.number)
                else:
                    self._close_surplus()

    def _close_surplus(self) -> None:
        surplus = len(self._open) - self._max_open
        if surplus > 0:
            idle = [name for name, held in self._open.items() if held.users == 0]
            for name in idle[:surplus]:
                os.close(self._open.pop(name).number)


@dataclass
class _Descriptor:
    number: int
    users: int = 0


def _cut(lengths: Sequence[int], segment_bytes: int) -> Iterator[tuple[int, int]]:
    first = total = 0
    for index, length in enumerate(lengths):
        if index > first and (total + length > segment_bytes or index - first == MAX_SEGMENT_RECORDS):
            yield first, index
            first, total = index, 0
        total += length
    if first < len(lengths):
        yield first, len(lengths)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(what: str, error: OSError) -> StorageError:
    full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return StorageError(f"cannot {what}: {error.strerror}{full}", errno=error.errno)
