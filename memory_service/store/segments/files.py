"""Every operation on segment files that can fail, in one place: tests make each of them fail in turn."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from memory_format import StorageError
from memory_service.store.pure.change import Body

SEALED: Final = ".zarr.zip"
OPEN: Final = ".open"
OWN_NAME: Final = re.compile(r"([0-9a-f]{32})(\.zarr\.zip|\.open)")
"""Of segment files: a stem, and a suffix that says which of the two they are."""

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
"""Of what a store makes: for nobody but its owner, whatever the umask."""

UNFINISHED: Final = re.compile(r"\.(.+)\.[0-9]+\.tmp")
"""Names of what :func:`replacing` writes: the file whose place it takes, and the process."""

# The most pieces that one call takes (limits.h); Linux says 1024 everywhere.
_IOV_MAX = 1024
# Linux has it, for most file systems.
_IF_CACHED: Final[int] = getattr(os, "RWF_NOWAIT", 0)
_SLOW_SECONDS: Final = 0.0002
"""Between one read and the next. What is copied and checked meanwhile is done in a tenth of it, up to a megabyte."""


def make_directory(path: Path) -> None:
    """A directory, unless it is there, and those above it. Raises ``NotADirectoryError``: it is something else."""
    try:
        path.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


def create(path: Path, mode: int = FILE_MODE) -> int:
    """A new file, open for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def open_for_reading(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_for_writing(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def write_at(descriptor: int, pieces: Sequence[Body], offset: int) -> int:
    """Write all of ``pieces`` one after another; returns the offset behind them."""
    for first in range(0, len(pieces), _IOV_MAX):
        rest = [piece for piece in pieces[first : first + _IOV_MAX] if len(piece)]
        while rest:
            written = os.pwritev(descriptor, rest, offset)
            if written == 0:
                raise OSError(errno.EIO, "nothing was written")
            offset += written
            # A short write: go on behind it.
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest and written:
                rest[0] = memoryview(rest[0])[written:]
    return offset


def read_into(descriptor: int, target: memoryview, offset: int) -> int:
    """Fill ``target`` from ``offset`` on; returns the bytes read, fewer only at the file's end."""
    done = os.preadv(descriptor, [target], offset)
    # Hardly ever: a read that was interrupted, or the end of the file.
    while 0 < done < len(target):
        count = os.preadv(descriptor, [target[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


class CachedReads:
    """Reads from the page cache into a buffer, without waiting for the disk, and at most once for other threads.

    ``os.preadv`` gives Python's global lock away at each call, and beside a busy thread waits for it each time. A read
    that never waits for the disk has no reason to. So once one was slow, the others keep the lock, by way of ctypes,
    which takes a little longer where nobody else wants it (docs/decisions/0016).

    Args:
        target: what is filled, writable and contiguous.
    """

    def __init__(self, target: memoryview) -> None:
        self._target = target
        self._address = 0
        self._piece = _Piece()
        self._last = time.perf_counter()

    def read(self, descriptor: int, body: memoryview, offset: int, at: int) -> bool:
        """Fill a part of the target with the bytes at ``offset`` of the file.

        Args:
            body: that part, which the caller needs too, and making it takes as long as a tenth of reading it.
            at: where it begins in the target.

        Returns:
            whether all of it was in the page cache. False says no more than that: not that the file ends or cannot
            be read, nor that the system has page caches to ask.
        """
        if not _IF_CACHED:
            return False
        if self._address:
            return self._read_keeping_the_lock(descriptor, len(body), offset, at)
        try:
            # Linux 5.9 and 5.10 give 0 bytes where there are more: preadv2(2), "Bugs".
            if os.preadv(descriptor, [body], offset, _IF_CACHED) != len(body):
                return False
        except OSError:
            return False
        now = time.perf_counter()
        if now - self._last > _SLOW_SECONDS and _preadv2 is not None:
            self.keep_the_lock()
        self._last = now
        return True

    def keep_the_lock(self) -> None:
        """From now on."""
        self._address = np.frombuffer(self._target, np.uint8).ctypes.data

    def _read_keeping_the_lock(self, descriptor: int, length: int, offset: int, at: int) -> bool:
        if not 0 <= at <= at + length <= len(self._target):
            raise ValueError(f"bytes {at} to {at + length} do not lie in a target of {len(self._target)}")
        self._piece.base, self._piece.length = self._address + at, length
        return _preadv2(descriptor, ctypes.addressof(self._piece), 1, offset, _IF_CACHED) == length  # type: ignore[misc]


class _Piece(ctypes.Structure):
    """C's ``struct iovec``."""

    _fields_: ClassVar = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _find_preadv2() -> Callable[..., int] | None:
    try:
        found = ctypes.PyDLL(None).preadv2
    except (AttributeError, OSError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int)
    found.restype = ctypes.c_ssize_t
    return found


# C's off_t has 64 bits where a pointer has.
_preadv2 = _find_preadv2() if _IF_CACHED and ctypes.sizeof(ctypes.c_void_p) == 8 else None


def truncate(descriptor: int, length: int) -> None:
    os.ftruncate(descriptor, length)


def sync(descriptor: int) -> None:
    """Make the file's content and length durable."""
    os.fdatasync(descriptor)


def rename(old: Path, new: Path) -> None:
    os.rename(old, new)


def unlink(path: Path) -> None:
    os.unlink(path)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, mode: int = FILE_MODE) -> Iterator[int]:
    """A descriptor of a file that takes the place of ``path`` once it is whole and on the disk, and never before.

    Where the block raises, or the file cannot be made durable, what stood there before still stands there.

    Raises:
        OSError: it cannot be written.
    """
    # Of a name of its own: another process may write the same file.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.unlink(missing_ok=True)
    try:
        descriptor = create(unfinished, mode)
        try:
            yield descriptor
            sync(descriptor)
        finally:
            os.close(descriptor)
        rename(unfinished, path)
        sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            unlink(unfinished)
        raise


def storage_error(what: str, error: OSError) -> StorageError:
    """The error that a caller sees for one of the system's."""
    full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return StorageError(f"cannot {what}: {error.strerror}{full}", errno=error.errno)
