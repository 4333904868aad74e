"""Files that appear whole or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class DamagedFileError(Exception):
    """A file that was written whole cannot be read any more; the message names it."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} is damaged ({reason})")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, and to read again, that takes the place of ``path`` once it is whole and on the disk.

    Raises:
        OSError: it cannot be written, naming ``path``; what stood there before still stands there.
    """
    # Of a name of its own: two processes may write the same file, and the last one to end wins.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # not the system's: a connection that broke while the file was written
            raise
        # A full disk fails a write, which does not know the file's name.
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """The whole file or none of it, in a folder that is made where there is none; see :func:`replacing`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a file is not there for good before its name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
