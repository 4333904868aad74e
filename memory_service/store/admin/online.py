"""Looking at a store that a service may be changing meanwhile, or that lies where nothing can be written.

The index is only ever copied: :func:`~memory_service.store.index.opening.copy_index` gives it as of one moment.
Segment files that it names are read where they lie. What then seems to be wrong may only have changed since: a newer
copy tells.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_format import StorageError
from memory_service.store.admin.on_disk import StoreOnDisk
from memory_service.store.directory import take_lock
from memory_service.store.index.opening import copy_index, names_segment
from memory_service.store.index.sqlite import SqliteIndex


@contextmanager
def held_if_free(data: Path) -> Iterator[bool]:
    """Keep services away from a store, where none holds it already; whether one does. Raises ``StorageError``: that
    cannot be told."""
    try:
        lock = take_lock(data / "lock")
    except StorageError:
        yield True
        return
    except OSError:
        # Nothing can be written here.
        found = _lock_to_read(data / "lock")
        if found is None:
            yield True
            return
        lock = found
    try:
        yield False
    finally:
        os.close(lock)


def _lock_to_read(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Never served since it came here.
        return os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read, which tells whether the store is served: {error.strerror}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class Newer:
    """A store as it is at each call, seen in copies of its index, which go to ``directory``."""

    def __init__(self, data: Path, directory: Path) -> None:
        self._data = data
        self._directory = directory
        self._taken = 0

    def names(self, stem: str) -> bool:
        """Whether the index speaks of a segment now."""
        return names_segment(self._data, stem)

    def __call__(self) -> StoreOnDisk:
        """With an index of now; the caller closes it. Raises ``StorageError``: it cannot be read, or is of another
        version."""
        self._taken += 1
        path = self._directory / f"{self._taken}.sqlite"
        copy_index(self._data, path)
        return StoreOnDisk(self._data, SqliteIndex(path, migrate=False))


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
