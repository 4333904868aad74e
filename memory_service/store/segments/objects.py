"""Segments as objects: sealed ones are put once and never changed, the bodies of open ones are in the index.

What is read is copied to the disk: see :mod:`memory_service.store.segments.copies`. What is to be there is named in the
index before it is, and what is to go until it is gone: objects are never listed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from memory_format import BusyError, StorageError, checksum
from memory_format.header import HEADER_DTYPE
from memory_service.store.pure.change import Body
from memory_service.store.pure.columns import Rows, rows_of_headers
from memory_service.store.pure.erasing import Targets, places_of, same_bodies
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments.appending import OpenSegment, Part
from memory_service.store.segments.base import Bodies, Erased, KnownFiles, Prefix, SegmentGoneError, Segments
from memory_service.store.segments.bucket import WRITE_SECONDS, Bucket
from memory_service.store.segments.copies import Copies, HeldCopies, key_of
from memory_service.store.segments.layout import BODY_AT, SegmentContents, seal_frame
from memory_service.store.segments.outside import ObjectsOutside
from memory_service.store.segments.owner import Owner, read_owner
from memory_service.store.segments.sweeping import Sweeper

_ALL_TRIES_SECONDS: Final = 2.0 * WRITE_SECONDS
"""What one upload takes at most."""
UPLOAD_SECONDS: Final = 2 * _ALL_TRIES_SECONDS
"""From when uploads are named to their deadline."""
_CLOSE_SECONDS: Final = 5.0


class ObjectSegments(Segments):
    """The segments of a store in an object store.

    Args:
        bucket: where they lie.
        names: names them, and keeps the bodies of open ones.
        cache: directory for copies, of this store alone.
        cache_bytes: what those take at most.
        max_open: see :class:`Descriptors`.
        mark: called before uploads with the number of the change that says that they begin.
    """

    keeps_open: ClassVar[bool] = False

    def __init__(
        self,
        bucket: Bucket,
        names: Bodies,
        cache: Path,
        cache_bytes: int,
        *,
        max_open: int = 256,
        mark: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__(names)
        self._bucket = bucket
        self._index = names
        self._mark = mark
        self.copies = Copies(bucket, names, cache, cache_bytes, max_open, self._was_read)
        self._sweeper = Sweeper(self._remove, names.stems_gone)
        self.orphans = self._sweeper.failing
        self._lock = threading.Lock()
        self._staged: dict[str, bytes] = {}
        """Sealed segments that are not uploaded yet."""
        self._read_on: set[str] = set()
        """Sealed segments that were deleted and are read: they go once that is over."""

    # Writing

    def _write(
        self, before: OpenSegment | None, after: OpenSegment, bodies: Sequence[Body], owner: Mapping[str, Any] | None
    ) -> int:
        if owner is None:
            self.copies.growing.add(after.stem)
            # Until the index has them.
            self.copies.cache.kept.add(after.stem)
            try:
                self.copies.cache.write(after.stem, bodies, BODY_AT if before is None else before.end)
            except OSError:
                self._restore(after.stem, before)
                raise
            if before is None:
                self.copies.filled[after.stem] = after.end
            return after.end
        first, tail = seal_frame(after.headers(), after.learners, after.body_bytes, after.crc32, owner)
        try:
            held = [] if before is None else [self.bodies_of(before)]
        except SegmentGoneError as error:
            raise StorageError(f"the index has not all of the open segment {error}") from error
        whole = b"".join([first, *held, *bodies, tail])
        if before is not None:
            # Whoever reads it by its old name goes on with a file that has everything.
            with suppress(OSError):
                self.copies.cache.rename(before.stem, after.stem, before.end)
        self.copies.keep_sealed(after.stem, whole, after.end)
        with self._lock:
            self._staged[after.stem] = whole
        return len(whole)

    def _settle(self, parts: Sequence[Part]) -> None:
        stems = [part.after.stem for part in parts if part.sealed]
        if not stems:
            return
        # They are named before anything of them is there.
        last_start = time.monotonic() + UPLOAD_SECONDS - _ALL_TRIES_SECONDS
        self._mark(self._index.begin_uploads(stems, UPLOAD_SECONDS))
        tries = [self.copies.pool.submit(self._upload, stem, last_start) for stem in stems]
        futures.wait(tries)
        for done in tries:
            done.result()

    def _upload(self, stem: str, last_start: float) -> None:
        if time.monotonic() > last_start:
            # Whoever opens the store next takes what arrives beyond the deadline for nothing that could.
            raise StorageError(
                f"segment {stem} was not put within {UPLOAD_SECONDS:.0f} seconds: too much is on its way"
            )
        if not self._bucket.create(key_of(stem), [self._staged[stem]]):
            # A name is random: an earlier try of this very request was answered too late.
            self._bucket.replace(key_of(stem), self._staged[stem])
        with self._lock:
            del self._staged[stem]

    def _restore(self, stem: str, segment: OpenSegment | None) -> None:
        if segment is not None:
            with suppress(OSError):
                self.copies.cache.rename(stem, segment.stem, segment.end)
        if segment is None or stem != segment.stem:
            # Nobody reads it, and what has not arrived yet may still do so.
            self._delete(stem, UPLOAD_SECONDS if stem in self._staged else 0.0)

    def noted(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self.copies.cache.kept.discard(part.after.stem)
            if part.sealed:
                # Copies of what nothing named yet may have been dropped since it was put.
                self.copies.sizes[part.after.stem] = part.file_bytes
            if part.before is not None and self.copies.filled.get(part.after.stem) == part.before.end:
                self.copies.filled[part.after.stem] = part.after.end
            if part.before is not None and part.before.stem != part.after.stem:
                self.copies.growing.discard(part.before.stem)
                self.copies.forget(part.before.stem)

    # Reading

    def room_to_hold(self) -> int:
        return self.copies.open.room

    def hold(self, stems: Sequence[str], first: int = 0, *, wait: bool = True) -> HeldCopies:
        return self.copies.hold(stems, first, wait=wait)

    def read_prefixes(self, stem: str, places: Sequence[Prefix]) -> list[bytes]:
        out = []
        with self.hold([stem]) as held:
            for offset, wanted, length, crc32 in places:
                body = memoryview(bytearray(length))
                held.read([(0, offset, length, crc32, 0)], body)
                out.append(bytes(body[:wanted]))
        return out

    def bodies_of(self, segment: OpenSegment) -> bytes:
        wanted, copy = self.with_crc(segment).crc32, self.copies.cache.read(segment.stem) or b""
        if checksum.crc32(body := copy[BODY_AT : segment.end]) == wanted and len(body) == segment.body_bytes:
            return body
        kept = b"".join(self._index.open_bodies(segment.stem) or ())
        if len(kept) < segment.body_bytes:
            raise SegmentGoneError(segment.stem)
        return kept[: segment.body_bytes]

    def with_crc(self, segment: OpenSegment) -> OpenSegment:
        headers, (_, lengths) = segment.headers(), segment.places()
        return replace(segment, crc32=checksum.crc32_of_all(0, headers["crc32"].tolist(), lengths.tolist()))

    def contents(self, stem: str) -> SegmentContents:
        return self.copies.contents(stem)

    # Removing

    def delete(self, stems: Iterable[str]) -> None:
        for stem in stems:
            self._delete(stem, self._index.grace_seconds)

    def _delete(self, stem: str, seconds: float) -> None:
        was_open = stem in self.copies.growing
        self.copies.growing.discard(stem)
        with self._lock:
            self._staged.pop(stem, None)
        if was_open:
            self.copies.forget(stem)
            self._names.stems_gone([stem])
            return
        # Whoever reads it may need more of it than there are copies.
        self._read_on.add(stem)
        if not self.copies.forget(stem):
            self._read_on.discard(stem)
            self._sweeper.add([stem], seconds)

    def _remove(self, stems: Sequence[str]) -> Sequence[str]:
        dead = self._index.dead(stems)
        self._bucket.delete(map(key_of, dead))
        return [stem for stem, for_good in dead.items() if for_good]

    def _was_read(self, stem: str) -> None:
        if stem in self._read_on:
            self._read_on.discard(stem)
            self._sweeper.add([stem], self._index.grace_seconds)

    # What others have changed

    def changed_elsewhere(self, segments: Iterable[SegmentState]) -> None:
        copies = self.copies
        for segment in segments:
            if segment.sealed:
                copies.sizes[segment.stem] = segment.file_bytes
            else:
                copies.ends[segment.stem] = segment.file_bytes
                copies.growing.add(segment.stem)

    def forget(self, stems: Iterable[str]) -> None:
        for stem in stems:
            self.copies.growing.discard(stem)
            self.copies.forget(stem)

    def sweep_dead(self, stems: Iterable[str]) -> None:
        """Remove what others have not."""
        self._sweeper.add(stems)

    def keep_only(self, stems: Iterable[str], seconds: float) -> None:
        with self._lock:
            # Made here, and not named by the index yet.
            mine = set(self._staged)
        self.copies.keep_only({*stems, *mine, *self.copies.cache.kept})
        self._expect_read(seconds)

    def _expect_read(self, seconds: float) -> None:
        if stem := self.copies.open.wait_until_read(seconds):
            raise BusyError(f"segment {stem} was removed, and somebody still reads it; ask again")

    def expect_gone(self, erased: Erased, seconds: float) -> None:
        self._expect_read(seconds)
        # Others could read these on. Names stay as long as that was to be, or as they may be put: one may arrive late.
        gone = [(stem, _may_have) for stem in self._index.leaving()]
        gone += [(stem, _has) for stem in self._index.uploading()]
        found = self.copies.pool.map(lambda each: self._is_among(each[0], erased, each[1]), gone)
        self._bucket.delete([key_of(stem) for (stem, _), has in zip(gone, found, strict=True) if has])
        if not self._sweeper.wait(seconds):
            raise StorageError(f"{len(self.orphans)} objects cannot be removed from {self._bucket.place} now")

    def _is_among(self, stem: str, erased: Erased, has: Callable[[Rows, Owner | None, Erased], bool]) -> bool:
        try:
            found = ObjectsOutside(self._bucket).contents(stem)
        except FileNotFoundError:
            return False
        except ValueError:
            # Damaged: of what leaves nothing is kept for that.
            return has is _may_have
        rows = rows_of_headers(found.headers.astype(HEADER_DTYPE), 0, found.lengths)
        return has(rows, read_owner(found.attributes), erased)

    def overwrite_aside(self, targets: Targets, bodies: Callable[[], Iterable[bytes | memoryview]]) -> list[str]:
        """Nothing: what the index does not know is not looked for."""
        return []

    def sweep(self, known: KnownFiles, *, trusted: bool) -> set[str]:
        self.copies.sizes = {stem: size for stem, (size, _, sealed) in known.segments.items() if sealed}
        self.copies.growing = known.segments.keys() - self.copies.sizes.keys()
        unseen = self.copies.sweep()
        there = self.copies.pool.map(self._is_there, unseen)
        if damaged := [stem for stem, found in zip(unseen, there, strict=True) if not found]:
            raise StorageError(
                f"{len(damaged)} of {len(known.segments)} segments are missing from {self._bucket.place}, first "
                f"{min(damaged)}. Nothing was changed",
                segments=sorted(damaged)[:16],
            )
        if trusted:
            self._sweeper.add(known.intents.keys() - known.uploads.keys())
            for stem, seconds in known.uploads.items():
                self._sweeper.add([stem], seconds)
        # They are as they are gone.
        return set()

    def _is_there(self, stem: str) -> bool:
        try:
            self.contents(stem)
        except FileNotFoundError:
            return False
        except ValueError:
            # Whoever loads it says what is wrong with it.
            return True
        return True

    def close(self) -> None:
        self._sweeper.close(_CLOSE_SECONDS)
        self.copies.close()


def _has(rows: Rows, owner: Owner | None, erased: Erased) -> bool:
    """Whether an object that a change put has what is erased."""
    return owner is not None and owner.name in erased.buffers and len(places_of(erased.targets, rows)) > 0


def _may_have(rows: Rows, owner: Owner | None, erased: Erased) -> bool:
    """Whether one that leaves may: also what an exemplar was before its arrays were replaced, which has no row now."""
    unrelated = owner is not None and (owner.name, owner.created_at) in erased.unrelated
    return not unrelated or bool(same_bodies(erased.targets, rows).any())
