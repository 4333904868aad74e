"""Copies of segments that lie in an object store, and how what they lack is read.

By ranges at first. Once what a segment's ranges have cost comes to what all of it would, all of it is fetched: so no
order of draws costs more than twice the best that could have been done (docs/decisions/0022).
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from memory_format import StorageError, checksum
from memory_service.store.pure.change import Body
from memory_service.store.segments import files
from memory_service.store.segments.base import Bodies, Held, Place, SegmentGoneError, damaged_record
from memory_service.store.segments.bucket import Bucket, Span
from memory_service.store.segments.cache import Cache
from memory_service.store.segments.descriptors import Descriptor, Descriptors
from memory_service.store.segments.layout import BODY_AT, BODY_ENTRY, SegmentContents, local_header, read_contents

logger = logging.getLogger(__name__)

REQUEST_BYTES: Final = 256 * 1024
"""What one request costs, in bytes that could have been read instead: see docs/decisions/0022."""
_FIRST_END: Final = 64 * 1024
"""Of a segment, in which its frame most often is."""
_PIECE: Final = 4 * 1024 * 1024
"""Of a segment that is fetched as a whole, in a request."""
_THREADS: Final = 16
_END: Final = ".end"
"""Of the name of a copy of a segment's end."""


class Copies:
    """What is at hand of a store's segments.

    Args:
        bucket: where sealed ones lie.
        index: has the bodies of open ones.
        directory: for copies, of this store alone.
        most_bytes: what those take at most.
        max_open: see :class:`Descriptors`.
        was_read: told of a removed one once nobody reads it any more.
    """

    def __init__(
        self,
        bucket: Bucket,
        index: Bodies,
        directory: Path,
        most_bytes: int,
        max_open: int,
        was_read: Callable[[str], object],
    ) -> None:
        self._bucket = bucket
        self._index = index
        self.open = Descriptors(lambda stem: self.cache.open(stem), max_open, was_read)
        self.cache = Cache(directory, most_bytes, self._close_idle)
        self.pool = futures.ThreadPoolExecutor(_THREADS, "objects")
        self.sizes: dict[str, int] = {}
        """Of sealed segments, in bytes."""
        self.growing: set[str] = set()
        """Those that are open."""
        self.filled: dict[str, int] = {}
        """Up to where a copy of one of them has everything."""
        self.ends: dict[str, int] = {}
        """Up to where others have written to one of them."""
        self.damaged: set[tuple[str, int]] = set()
        """Segment and offset of records found damaged since the store was opened."""
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        """Held around the writing of a copy of an end: of what is forgotten none is made any more."""
        self._spent: dict[str, int] = {}
        """Stem -> what its ranges have cost, in bytes."""

    def hold(self, stems: Sequence[str], first: int, *, wait: bool) -> HeldCopies:
        """As :meth:`Segments.hold`; that one does not exist shows when it is read."""
        held = HeldCopies(self, stems, self.open.take(stems, wait=wait), first)
        try:
            for stem, descriptor in zip(stems, held.descriptors, strict=True):
                self.cache.touch(stem)
                if stem in self.growing and self.filled.get(stem, 0) < self.ends.get(stem, 1):
                    # The index has it only as long as it is one.
                    if not wait:
                        raise BlockingIOError(f"segment {stem} is not at hand")
                    self.fetch(stem, descriptor.number, ())
        except BaseException:
            held.close()
            raise
        return held

    def _close_idle(self, name: str) -> bool:
        closed = self.open.close_idle(name)
        if closed:
            self.filled.pop(name, None)
        return closed

    def forget(self, stem: str) -> bool:
        """Remove what there is of a segment; returns whether somebody reads it still."""
        self._spent.pop(stem, None)
        self.filled.pop(stem, None)
        self.ends.pop(stem, None)
        with self._ending:
            self.sizes.pop(stem, None)
        self.cache.forget(stem)
        self.cache.forget(stem + _END)
        return self.open.remove(stem)

    def keep_sealed(self, stem: str, whole: bytes, body_end: int) -> None:
        """A segment is sealed; where there is no room for a copy of it, there is none."""
        self.sizes[stem] = len(whole)
        with suppress(OSError):
            self.cache.write(stem, [whole])
            self.cache.write(stem + _END, [whole[body_end:]])

    def sweep(self) -> list[str]:
        """Remove copies of what is gone; returns those segments of which nothing says yet that they are whole, as far
        as the ends of all of them can be kept."""
        self.keep_only({*self.growing, *self.sizes})
        unseen = [stem for stem in self.sizes if stem + _END not in self.cache]
        return unseen if len(unseen) * _FIRST_END <= self.cache.most_bytes // 2 else []

    def keep_only(self, stems: Container[str]) -> None:
        """Remove copies of all other segments."""
        for stem in {name.removesuffix(_END) for name in self.cache.names()}:
            if stem not in stems:
                self.forget(stem)

    def close(self) -> None:
        """Leave copies to the next start."""
        self.pool.shutdown()
        self.open.close()
        self.cache.settle()

    def contents(self, stem: str) -> SegmentContents:
        size, end = self.sizes.get(stem), self.cache.read(stem + _END)
        if size is not None and end is not None:
            with suppress(ValueError):
                return contents_of_end(size, end)
        for end, size in ends(self._bucket, stem):
            with self._ending, suppress(OSError):
                if stem in self.sizes:
                    self.cache.forget(stem + _END)
                    self.cache.write(stem + _END, [end])
            if size != (known := self.sizes.get(stem, size)):
                raise ValueError(f"{size} bytes, the index says {known}")
            try:
                return contents_of_end(size, end)
            except ValueError:
                if len(end) == size:
                    raise
        raise FileNotFoundError(f"there is no {key_of(stem)} in {self._bucket.place}")

    def fetch(self, stem: str, descriptor: int, wanted: Sequence[Span]) -> list[tuple[int, Body]]:
        """What a copy lacks, from where it lies; returns pieces and where each begins, some beyond what is wanted.
        Where nothing is wanted of an open segment, all that is new.

        Raises:
            SegmentGoneError: it does not exist any more.
            StorageError: it cannot be read.
        """
        known = BODY_AT if wanted else self.filled.get(stem, BODY_AT)
        found = self._from_index(stem, known) if stem in self.growing else self._from_bucket(stem, wanted)
        if found is None and stem not in self.growing:
            # Another process may have made it.
            found = self._from_index(stem, BODY_AT)
        if found is None:
            if stem in self.sizes and not self._index.grace_seconds:
                raise StorageError(f"segment {stem} is missing from {self._bucket.place}", segment=stem)
            raise SegmentGoneError(stem)
        # Of one that was deleted since, which may be there still, nobody would remove a copy. Who deletes one looks for
        # readers behind this.
        if stem in self.sizes or stem in self.growing:
            try:
                for at, data in found:
                    self.cache.fill(stem, descriptor, [data], at)
                    if stem in self.growing:
                        self.filled[stem] = at + len(data)
            except OSError as error:
                logger.warning("what was read is not kept: %s", error.strerror)
        return found

    def _from_index(self, stem: str, known: int) -> list[tuple[int, Body]] | None:
        pieces = self._index.open_bodies(stem, known - BODY_AT)
        return None if pieces is None else [(known, b"".join(pieces))]

    def _from_bucket(self, stem: str, wanted: Sequence[Span]) -> list[tuple[int, Body]] | None:
        spans = _together(wanted)
        cost = sum(end - start + REQUEST_BYTES for start, end in spans)
        size = self.sizes.get(stem)
        with self._lock:
            spent = self._spent[stem] = self._spent.get(stem, 0) + cost
            if size is not None and spent >= size + REQUEST_BYTES and size <= self.cache.most_bytes // 2:
                spans = [(start, min(start + _PIECE, size)) for start in range(0, size, _PIECE)]
                del self._spent[stem]
        found = self._bucket.read_spans(key_of(stem), spans)
        return None if found is None else [(span[0], data) for span, data in zip(spans, found, strict=True)]


class HeldCopies(Held):
    """Segments that are read from: see :meth:`Copies.hold`."""

    def __init__(self, owner: Copies, stems: Sequence[str], descriptors: Sequence[Descriptor], first: int) -> None:
        self._owner = owner
        self._first = first
        self._stems = stems
        self.descriptors = descriptors

    def read(self, places: Iterable[Place], target: memoryview, *, wait: bool = True) -> None:
        cached = None if wait else files.CachedReads(target)
        missing: dict[int, list[Place]] = {}
        for place in places:
            number, offset, length, crc32, at = place
            which = number - self._first
            body, descriptor = target[at : at + length], self.descriptors[which].number
            if cached is not None:
                if not cached.read(descriptor, body, offset, at) or checksum.crc32(body) != crc32:
                    raise BlockingIOError(f"segment {self._stems[which]} is not in the page cache")
            elif not _is_copied(descriptor, body, offset, crc32):
                missing.setdefault(which, []).append(place)
        if missing:
            tries = [self._owner.pool.submit(self._fetch, which, of, target) for which, of in missing.items()]
            # All of them, whatever fails: they use descriptors that may be closed afterwards.
            futures.wait(tries)
            for done in tries:
                done.result()

    def _fetch(self, which: int, places: Sequence[Place], target: memoryview) -> None:
        stem = self._stems[which]
        spans = [(offset, offset + length) for _, offset, length, _, _ in places]
        found = self._owner.fetch(stem, self.descriptors[which].number, spans)
        for _, offset, length, crc32, at in places:
            body = target[at : at + length]
            for start, data in found:
                # A record may begin in one and end in another.
                first, last = max(start, offset), min(start + len(data), offset + length)
                if first < last:
                    body[first - offset : last - offset] = data[first - start : last - start]
            if checksum.crc32(body) != crc32:
                self._owner.damaged.add((stem, offset))
                raise damaged_record(stem, offset)

    def expect_sound(self, places: Iterable[Place]) -> None:
        if self._owner.damaged:
            for number, offset, *_ in places:
                stem = self._stems[number - self._first]
                if (stem, offset) in self._owner.damaged:
                    raise damaged_record(stem, offset)

    def close(self) -> None:
        descriptors, self.descriptors = self.descriptors, ()
        if descriptors:
            self._owner.open.let_go(self._stems, descriptors)
            self._owner.cache.evict()


class _End(io.RawIOBase):
    """A sealed segment of which the end is at hand, and the first header, which is the same in all that this version
    writes."""

    def __init__(self, size: int, end: bytes) -> None:
        self._size = size
        self._end = end
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, num_bytes: int | None = -1) -> bytes:
        start, first = self._at, self._size - len(self._end)
        end = self._size if num_bytes is None or num_bytes < 0 else min(self._size, start + num_bytes)
        if start < first and end <= BODY_AT:
            found = local_header(BODY_ENTRY, 0, 0)[start:end]
        elif start < first < self._size or len(self._end) > self._size:
            raise ValueError("that part of it is not at hand")
        else:
            found = self._end[start - first : end - first]
        self._at = start + len(found)
        return found


def ends(bucket: Bucket, stem: str) -> Iterator[tuple[bytes, int]]:
    """More and more of the end of a segment, until that is all of it, and the bytes that it has; nothing where there
    is none."""
    wanted = _FIRST_END
    while (found := bucket.read_end(key_of(stem), wanted)) is not None:
        yield found
        if len(found[0]) == found[1]:
            return
        wanted *= 4


def contents_of_end(size: int, end: bytes) -> SegmentContents:
    """What a segment says of itself. Raises ``ValueError``: it is damaged, or more of it is needed."""
    return read_contents(cast(BinaryIO, _End(size, end)))


def _is_copied(descriptor: int, body: memoryview, offset: int, crc32: int) -> bool:
    try:
        found = files.read_into(descriptor, body, offset)
    except OSError:
        return False
    return found == len(body) and checksum.crc32(body) == crc32


def _together(wanted: Sequence[Span]) -> list[Span]:
    """Ranges that cover some others: two are one where a request costs more than what lies between them."""
    spans: list[Span] = []
    for start, end in sorted(wanted):
        if spans and start - spans[-1][1] <= REQUEST_BYTES:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def key_of(stem: str) -> str:
    """What a sealed segment is called in its bucket."""
    return f"segments/{stem}{files.SEALED}"
