"""The file ``generation``: of which store a directory's segment files are, and how many changes it has seen.

It is written after every change of the index and never before one, so it is as new as the index or older. An index
that is older than it is not the one that the segment files were written with: a backup, or one that lost the end of
its write-ahead log.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memory_service.store.segments import files

logger = logging.getLogger(__name__)

_RECORD: Final = struct.Struct("<8s16sQI")
_MAGIC: Final = b"emgen\x00\x00\x01"


@dataclass(frozen=True)
class Mark:
    """What the file says."""

    store_id: str
    changes: int


class Generation:
    """The file of an open store; made, durably, where it does not exist."""

    def __init__(self, path: Path, mark: Mark) -> None:
        self._path = path
        self._store_id = bytes.fromhex(mark.store_id)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.FILE_MODE)
        self._synced = -1
        self._changes = mark.changes
        self.note(mark.changes)
        self.sync()
        files.sync_directory(path.parent)

    def note(self, changes: int) -> None:
        """A change was committed. Not synced: a push must not wait for one more.

        What cannot be written is logged: the change counts, only an older index may not be told from this one.
        """
        self._changes = changes
        content = _RECORD.pack(_MAGIC, self._store_id, changes, 0)[:-4]
        try:
            os.pwrite(self._descriptor, content + struct.pack("<I", zlib.crc32(content)), 0)
        except OSError:
            logger.exception("cannot write %s", self._path)

    def sync(self) -> None:
        """Raises ``OSError``: it cannot be made durable."""
        changes = self._changes
        if changes != self._synced:
            files.sync(self._descriptor)
            self._synced = changes

    def close(self) -> None:
        os.close(self._descriptor)


def read_mark(path: Path) -> Mark | None:
    """What the file says; None where it does not exist or says nothing that can be read. Raises ``OSError``: it cannot
    be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(content) != _RECORD.size:
        return None
    magic, store_id, changes, crc32 = _RECORD.unpack(content)
    if magic != _MAGIC or crc32 != zlib.crc32(content[:-4]):
        return None
    return Mark(store_id.hex(), changes)
