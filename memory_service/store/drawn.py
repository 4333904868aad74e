"""A batch that is sent while it is read: who draws gets the first records while the last are still on the disk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from memory_service.store.segments import Held, Place

PIECE_BYTES: Final = 1024 * 1024
"""Bodies of a piece. Damage in the first one is answered as an error; in a later one, when part of the answer is on its
way, the answer ends early, and from then on drawing that record is an error from the start."""


class Drawn:
    """An Arrow stream whose bodies are read as its pieces are taken. Close it, or use it as a context manager.

    Args:
        version: of the buffer that it was drawn from.
        stream: the stream, its bodies not filled in.
        start: where in it the bodies go.
        held: their segments; None = all is filled in.
        places: where in those each body is, and where it goes behind ``start``; in that order, without gaps.
    """

    def __init__(
        self, version: int, stream: memoryview, start: int = 0, held: Held | None = None, places: Sequence[Place] = ()
    ) -> None:
        self.version = version
        self.stream = stream
        self._start = start
        self._held = held
        self._places = places

    def pieces(self) -> Iterator[memoryview]:
        """The stream in consecutive parts.

        Raises:
            StorageError: ``corrupt_record``, or ``storage_failed`` where a file cannot be read.
        """
        ends = [at + length for _, _, length, _, at in self._places]
        bodies = self.stream[self._start :]
        first = sent = 0
        while self._held is not None and first < len(ends):
            # One record at least, however long it is.
            last = max(first + 1, bisect_right(ends, self._places[first][4] + PIECE_BYTES))
            self._held.read(self._places[first:last], bodies)
            if last < len(ends):
                end = self._start + ends[last - 1]
                yield self.stream[sent:end]
                sent = end
            first = last
        yield self.stream[sent:]

    def close(self) -> None:
        """Let go of the segments."""
        if self._held is not None:
            self._held.close()

    def __enter__(self) -> Drawn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
