"""The file ``generation``: of which store a directory's segment files are, and how many changes it has seen.

It is written after every change of the index and never before one, so it is as new as the index or older. An index
that is older than it is not the one that the segment files were written with: a backup, or one that lost the end of
its write-ahead log.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memory_format import StorageError
from memory_service.store.segments import files
from memory_service.store.segments.bucket import Bucket

logger = logging.getLogger(__name__)

_RECORD: Final = struct.Struct("<8s16sQI")
_MARKER: Final = "store.json"
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


class Marker:
    """The same in a bucket: written before objects are, it says of which store they are, and at which change."""

    def __init__(self, bucket: Bucket, store_id: str) -> None:
        self._bucket = bucket
        self._store_id = store_id
        self._is_there = True

    def expect_of(self, look: Callable[[], Mark | None], place: str) -> bool:
        """Whether the objects are known to be of an index. Changes nothing: a place without a marker may be the wrong
        one, which shows where segments are missing there.

        Args:
            look: gives what the index said before it was opened, or where others change it, says now; None = it is a
                new one.
            place: where it is, in words.

        Raises:
            StorageError: they are another store's, or of a later state than the index's.
        """
        mark = read_marker(self._bucket)
        seen = look()
        self._is_there = mark is not None
        if mark is None:
            return seen is None or not seen.changes
        if mark.store_id != self._store_id:
            raise StorageError(f"the segments in {self._bucket.place} are of another store: name another prefix")
        if seen is None or seen.changes < mark.changes:
            raise StorageError(
                f"the index ({place or 'in the directory'}) is older than the segments in {self._bucket.place}: it "
                f"has seen {0 if seen is None else seen.changes} changes, they have seen {mark.changes}: put it back "
                "as it was last. Nothing was changed"
            )
        return True

    def note(self, changes: int) -> None:
        """What is put from here on is of this change or a later one. Raises as :meth:`claim`."""
        if not self._is_there:
            self.claim()
        self._bucket.replace(_MARKER, self._content(changes))

    def claim(self) -> None:
        """Take the place, unless it is this store's already. Raises ``StorageError``: another store was first, or it
        cannot be used."""
        if not self._bucket.create(_MARKER, [self._content(0)]):
            mark = read_marker(self._bucket)
            if mark is None or mark.store_id != self._store_id:
                raise StorageError(f"{self._bucket.place} is of another store: name a prefix of its own")
        self._is_there = True

    def _content(self, changes: int) -> bytes:
        return json.dumps({"store_id": self._store_id, "changes": changes}).encode()


def read_marker(bucket: Bucket) -> Mark | None:
    """What a bucket says; None where nothing does. Raises ``StorageError``: that is none of a store's."""
    found = bucket.read(_MARKER)
    return None if found is None else _marked(found, bucket)


def _marked(content: bytes, bucket: Bucket) -> Mark:
    try:
        said = json.loads(content)
        return Mark(str(said["store_id"]), int(said["changes"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{_MARKER} in {bucket.place} is none of a store: name another prefix") from error


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
