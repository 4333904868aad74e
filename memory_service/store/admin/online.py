"""Looking at a store that a service may be changing meanwhile, or that lies where nothing can be written.

The index is only ever copied: :meth:`~memory_service.store.index.outside.IndexOutside.copy` gives it as of one moment.
Segments that it names are read where they lie. What then seems to be wrong may only have changed since: a newer copy
tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from memory_service.store.admin.on_disk import StoreOnDisk
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.transfer.outside import Outside


class Newer:
    """A store as it is at each call, seen in copies of its index, which go to ``directory``."""

    def __init__(self, outside: Outside, directory: Path) -> None:
        self._outside = outside
        self._directory = directory
        self._taken = 0

    def names(self, stem: str) -> bool:
        """Whether the index speaks of a segment now."""
        return self._outside.index.names_segment(stem)

    def __call__(self) -> StoreOnDisk:
        """With an index of now; the caller closes it. Raises ``StorageError``: it cannot be read, or is of another
        version."""
        self._taken += 1
        path = self._directory / f"{self._taken}.sqlite"
        self._outside.index.copy(path)
        return StoreOnDisk(self._outside.data, SqliteIndex(path, migrate=False), self._outside.segments)


class Pace:
    """Holds whoever reads to a rate; None: as fast as it goes."""

    def __init__(
        self,
        bytes_per_second: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._due = clock()

    def spent(self, num_bytes: int) -> None:
        """That many were read: wait until they may have been."""
        if self._rate is None:
            return
        # Time in which less was read is not made up for.
        self._due = max(self._due, self._clock() - num_bytes / self._rate) + num_bytes / self._rate
        wait = self._due - self._clock()
        if wait > 0:
            self._sleep(wait)
