"""A batch that is sent while it is read: who draws gets the first records while the last are still on the disk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from memory_service.store.segments.base import Place
from memory_service.store.segments.readers import HeldLease

PIECE_BYTES: Final = 1024 * 1024
"""Bodies of a piece. Damage in the first one is answered as an error; in a later one, when part of the answer is on its
way, the answer ends early, and from then on drawing that record is an error from the start."""
FIRST_BYTES: Final = 128 * 1024
"""The same of the first piece where there are several, so that their reader need not wait for a megabyte."""


class Drawn:
    """An Arrow stream whose bodies are read as its pieces are taken. Close it, or use it as a context manager.

    Args:
        version: of the buffer that it was drawn from.
        stream: the stream, its bodies not filled in.
        start: where in it the bodies go.
        lease: of their segments; None = all is filled in.
        places: where in those each body is, and where it goes behind ``start``; in that order, without gaps.
    """

    def __init__(
        self,
        version: int,
        stream: memoryview,
        start: int = 0,
        lease: HeldLease | None = None,
        places: Sequence[Place] = (),
    ) -> None:
        self.version = version
        self.stream = stream
        self._start = start
        self.lease = lease
        self._places = places
        self._ends = [at + length for _, _, length, _, at in places]
        self._first = 0
        self._sent = 0

    def next_piece(self, *, wait: bool = True) -> memoryview:
        """The stream's next part, empty behind its end.

        Args:
            wait: for the disk.

        Raises:
            BlockingIOError: without ``wait``, not all of it is in the page cache; nothing was taken.
            LeaseEndedError: a change needed the room of what is read.
            StorageError: ``corrupt_record``, or ``storage_failed`` where a file cannot be read.
        """
        start = self._sent
        if self.lease is None or self._first == len(self._places):
            self._sent = len(self.stream)
            return self.stream[start:]
        # One record at least, however long it is.
        most = FIRST_BYTES if not self._first and self._ends[-1] > PIECE_BYTES else PIECE_BYTES
        last = max(self._first + 1, bisect_right(self._ends, self._places[self._first][4] + most))
        self.lease.read(self._places[self._first : last], self.stream[self._start :], wait=wait)
        self._first = last
        if last == len(self._places):
            # However slowly the rest is taken, it needs no file.
            self.lease.close()
        # What is behind the last body goes with it.
        self._sent = self._start + self._ends[last - 1] if last < len(self._places) else len(self.stream)
        return self.stream[start : self._sent]

    def close(self) -> None:
        """Let go of the segments."""
        if self.lease is not None:
            self.lease.close()

    def __enter__(self) -> Drawn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
