"""Copies on the disk of what lies elsewhere: as much as a bound allows, what was asked for last.

A copy has holes where nothing was read yet, and is never synced. Whether bytes in it are right is not known by the
cache: every record has a CRC, and so has all that a frame says of them. What does not fit its CRC was not there. That
holds after a crash, a full disk and another process at the same files too.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from memory_service.store.pure.change import Body
from memory_service.store.segments import files

logger = logging.getLogger(__name__)


class Cache:
    """Files by name in a directory of their own, which is made where it does not exist.

    Args:
        most_bytes: what they take together; more only as long as all others are read.
        close_idle: called with the name of one that is to go; returns whether nobody reads it.
    """

    def __init__(self, directory: Path, most_bytes: int, close_idle: Callable[[str], bool]) -> None:
        files.make_directory(directory)
        self._directory = directory
        self.most_bytes = most_bytes
        self._close_idle = close_idle
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Name -> bytes that it takes, those first that were asked for last the longest ago."""
        self.num_bytes = 0
        self.kept: set[str] = set()
        """Names that must stay for now: nobody else has them yet."""
        found = [(entry.name, entry.stat()) for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False)]
        for name, stat in sorted(found, key=lambda of: of[1].st_mtime):
            self._add(name, stat.st_blocks * 512)
        self.evict()

    def open(self, name: str) -> int:
        """A descriptor to read and write a copy by, which is all holes where there was none."""
        self.touch(name)
        return os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.FILE_MODE)

    def touch(self, name: str) -> None:
        """It is asked for."""
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)

    def read(self, name: str) -> bytes | None:
        """All of a copy without holes; None where there is none."""
        self.touch(name)
        with suppress(OSError):
            return (self._directory / name).read_bytes()
        return None

    def write(self, name: str, pieces: Sequence[Body], offset: int = 0) -> None:
        """Copy some bytes. Raises ``OSError``."""
        descriptor = self.open(name)
        try:
            self.fill(name, descriptor, pieces, offset)
        finally:
            os.close(descriptor)

    def fill(self, name: str, descriptor: int, pieces: Sequence[Body], offset: int) -> None:
        """The same, of a copy that is open."""
        end, size = files.write_at(descriptor, pieces, offset), os.fstat(descriptor).st_size
        with self._lock:
            self._add(name, min(end - offset, size - self._sizes.get(name, 0)))
        self.evict()

    def rename(self, old: str, new: str, length: int) -> None:
        """A copy is called otherwise, and has at most so many bytes. Raises ``OSError``."""
        os.rename(self._directory / old, self._directory / new)
        if os.stat(self._directory / new).st_size > length:
            os.truncate(self._directory / new, length)
        with self._lock:
            size = self._sizes.pop(old, 0)
            self.num_bytes -= size
            self._add(new, min(size, length) - self._sizes.get(new, 0))

    def forget(self, name: str) -> None:
        """A copy is needed no more; who reads it goes on."""
        with self._lock:
            self.num_bytes -= self._sizes.pop(name, 0)
            self.kept.discard(name)
        with suppress(FileNotFoundError):
            files.unlink(self._directory / name)

    def names(self) -> list[str]:
        """Of all copies."""
        with self._lock:
            return list(self._sizes)

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def settle(self) -> None:
        """Leave the order in which they were asked for to the next start."""
        with suppress(OSError):
            for number, name in enumerate(self._sizes):
                os.utime(self._directory / name, ns=(number, number))

    def _add(self, name: str, num_bytes: int) -> None:
        self._sizes[name] = self._sizes.get(name, 0) + num_bytes
        self._sizes.move_to_end(name)
        self.num_bytes += num_bytes

    def evict(self) -> None:
        """Keep to the bound, as far as nobody reads what has to go."""
        if self.num_bytes <= self.most_bytes:
            return
        with self._lock:
            # The last one is what room is made for.
            names = [name for name in list(self._sizes)[:-1] if name not in self.kept]
        for name in names:
            if self.num_bytes <= self.most_bytes:
                return
            if self._close_idle(name):
                self.forget(name)
