"""Every operation on segment files that can fail, in one place: tests make each of them fail in turn."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from memory_format import StorageError

Buffer = bytes | bytearray | memoryview

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
"""Of what a store makes: for nobody but its owner, whatever the umask."""

# The most pieces that one call takes (limits.h); Linux says 1024 everywhere.
_IOV_MAX = 1024
# Linux has it, for most file systems.
_IF_CACHED: Final[int] = getattr(os, "RWF_NOWAIT", 0)


def create(path: Path) -> int:
    """A new file, open for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def open_for_reading(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_for_writing(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def write_at(descriptor: int, pieces: Sequence[Buffer], offset: int) -> int:
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


def read_cached(descriptor: int, target: memoryview, offset: int) -> bool:
    """Fill ``target`` from the page cache, without waiting for the disk; returns whether all of it was there.

    False says no more than that: not that the file ends or cannot be read, nor that the system has page caches to ask.
    """
    if not _IF_CACHED:
        return False
    try:
        # Linux 5.9 and 5.10 give 0 bytes where there are more: preadv2(2), "Bugs".
        return os.preadv(descriptor, [target], offset, _IF_CACHED) == len(target)
    except OSError:
        return False


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


def storage_error(what: str, error: OSError) -> StorageError:
    """The error that a caller sees for one of the system's."""
    full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return StorageError(f"cannot {what}: {error.strerror}{full}", errno=error.errno)
