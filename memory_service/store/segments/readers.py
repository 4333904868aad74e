"""Who reads a buffer's files, and what of them is on the disk for that alone.

A file that is removed while it is read stays on the disk until its last reader is done, so it counts until then. Most
readers are done in a moment. Those that go at the pace of a client have a *lease*, which ends when a change needs the
room: see :meth:`Commits.make_room`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_format import BusyError
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments.base import Held, Place, SegmentGoneError

LeaseT = TypeVar("LeaseT", bound="HeldLease")

_RETURN_SECONDS: Final = 1.0
"""For how long a change that needs the room waits for a process that reads segments by itself."""


class LeaseEndedError(BusyError):
    """What was read was let go: asked again, the answer is whole."""

    def __init__(self) -> None:
        super().__init__("a change needed the room of what was read for this answer; ask again")


class Lease:
    """For as long as an answer is sent, what it reads is kept. May be ended at any time, by any thread."""

    def __init__(self) -> None:
        self.progressed = time.monotonic()
        """When its reader last took something."""
        self.on_end: Callable[[], object] | None = None
        """Called when a change ends it, to tell whoever sends the answer."""
        self.ended = False
        self._lock = threading.Lock()

    def progress(self) -> None:
        self.progressed = time.monotonic()

    def end(self) -> None:
        """Let go of everything, now; who reads on gets :class:`LeaseEndedError`."""
        self.ended = True
        self.close()
        if self.on_end is not None:
            self.on_end()

    def close(self) -> None:
        """Nothing more is read."""


class HeldLease(Lease):
    """Segments that are read from at a client's pace; ``done`` is called once, when they are not held any more."""

    def __init__(self, stems: Sequence[str], held: Held, done: Callable[[HeldLease], object]) -> None:
        super().__init__()
        self.stems = stems
        self._held = held
        self._done: Callable[[HeldLease], object] | None = done

    def read(self, places: Iterable[Place], target: memoryview, *, wait: bool = True) -> None:
        """As :meth:`Held.read`. Raises ``LeaseEndedError``: a change has ended it."""
        with self._lock:
            if self.ended:
                raise LeaseEndedError
            try:
                self._held.read(places, target, wait=wait)
            except SegmentGoneError as error:
                # Not all of it was at hand yet.
                raise LeaseEndedError from error
            self.progress()

    def close(self) -> None:
        with self._lock:
            self._held.close()
            done, self._done = self._done, None
        if done is not None:
            done(self)


class LentLease(HeldLease):
    """Segments whose descriptors another process has, which closes them when it has read: that takes no longer than
    reading does."""

    def __init__(self, stems: Sequence[str], held: Held, done: Callable[[HeldLease], object]) -> None:
        super().__init__(stems, held, done)
        self._returned = threading.Event()

    def file_descriptors(self) -> list[int] | None:
        """As :meth:`Held.file_descriptors`."""
        with self._lock:
            return self._held.file_descriptors()

    def end(self) -> None:
        """As :meth:`Lease.end`, where the other process is not done by itself in a moment."""
        # Before it is, files that are removed are still on the disk.
        if not self._returned.wait(_RETURN_SECONDS):
            super().end()

    def close(self) -> None:
        super().close()
        self._returned.set()


class PinningLease(Lease):
    """Records that are read at a client's pace, kept as a snapshot keeps them that is not in the index."""

    def __init__(self, mark: Snapshot) -> None:
        super().__init__()
        self.mark = mark
        self.rest: Rest | None = None
        """What is read where the buffer was deleted meanwhile."""

    def close(self) -> None:
        if self.rest is not None:
            self.rest.lease.close()


@dataclass(frozen=True)
class Rest:
    """Records of a buffer that was deleted, in files that are held: of segments with these ids, ascending."""

    view: Columns
    segment_ids: NDArray[np.uint32]
    lease: HeldLease

    def read(self, positions: NDArray[np.int64]) -> memoryview:
        """Bodies end to end. Raises as :meth:`HeldLease.read`."""
        taken = self.view.take(positions)
        lengths = taken["length"].astype(np.int64)
        which = np.searchsorted(self.segment_ids, taken["segment"])
        columns = (which, taken["offset"], lengths, taken["crc32"], np.cumsum(lengths) - lengths)
        target = memoryview(bytearray(int(lengths.sum())))
        self.lease.read(zip(*(column.tolist() for column in columns), strict=True), target)
        return target


class Readers:
    """The readers of one buffer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users: Counter[str] = Counter()
        self._left: dict[str, int] = {}
        """Segments that the buffer does not consist of any more and somebody reads -> bytes of their files."""
        self._leases: set[HeldLease] = set()
        self._closed: set[str] = set()
        """Segments that nobody begins to read."""

    def held_bytes(self, going: Iterable[SegmentState] = ()) -> int:
        """Bytes of files that are on the disk for readers alone, had the buffer let go of some more."""
        with self._changed:
            return sum(self._held(going).values())

    def _held(self, going: Iterable[SegmentState]) -> dict[str, int]:
        return self._left | {state.stem: state.file_bytes for state in going if self._users[state.stem] > 0}

    def begin(self, find: Callable[[], Sequence[str]]) -> Sequence[str]:
        """Read segments, those that ``find`` gives: it is called when no segment can leave. Raises
        ``SegmentGoneError``: one is about to leave."""
        with self._changed:
            stems = find()
            if closed := self._closed.intersection(stems):
                raise SegmentGoneError(min(closed))
            self._users.update(stems)
            return stems

    @contextmanager
    def closed(self, going: Iterable[SegmentState]) -> Iterator[None]:
        """Nobody begins to read these: what they hold on the disk for readers only gets less. Where a change takes
        them out, who asks meanwhile reads what is there afterwards.
        """
        with self._changed:
            self._closed = {state.stem for state in going}
        try:
            yield
        finally:
            with self._changed:
                self._closed = set()

    def done(self, stems: Iterable[str]) -> None:
        with self._changed:
            for stem in stems:
                self._users[stem] -= 1
                if not self._users[stem]:
                    del self._users[stem]
                    self._left.pop(stem, None)
            self._changed.notify_all()

    @contextmanager
    def leaving(self, gone: Iterable[SegmentState]) -> Iterator[None]:
        """Around the assignment by which the buffer lets go of segments: from then on nobody begins to read them."""
        with self._changed:
            yield
            for segment in gone:
                if self._users[segment.stem] > 0:
                    self._left[segment.stem] = segment.file_bytes

    def lease(self, stems: Sequence[str], held: Held, kind: type[LeaseT]) -> LeaseT:
        """Held segments, begun with :meth:`begin`, as a lease."""
        made = kind(stems, held, self._let_go)
        with self._changed:
            self._leases.add(made)
        return made

    def _let_go(self, lease: HeldLease) -> None:
        with self._changed:
            self._leases.discard(lease)
        self.done(lease.stems)

    def in_the_way(self, going: Sequence[SegmentState] = ()) -> list[Lease]:
        """The leases that keep a file on the disk, had the buffer let go of some more."""
        with self._changed:
            held = self._held(going)
            return [lease for lease in self._leases if any(stem in held for stem in lease.stems)]

    def wait(self, seconds: float, going: Sequence[SegmentState] = ()) -> bool:
        """Wait until some file that is on the disk for readers alone, or would be, is let go; returns whether one
        was."""

        def held() -> int:
            return sum(self._held(going).values())

        with self._changed:
            before = held()
            return before > 0 and self._changed.wait_for(lambda: held() < before, seconds)
