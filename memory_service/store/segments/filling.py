"""The segments of a store that is made from those of another one, which nobody serves meanwhile."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from memory_service.store.segments import files
from memory_service.store.segments.bucket import Bucket
from memory_service.store.segments.copies import key_of
from memory_service.store.segments.files import SEALED, storage_error
from memory_service.store.segments.outside import FilesOutside, ObjectsOutside, SegmentsOutside


class SegmentsToFill(ABC):
    """Where segments are put. Every method raises ``StorageError`` where that cannot be done; threads may share it."""

    outside: SegmentsOutside
    """To read what was put."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Put a segment, durably, in the place of what an earlier try has left of it."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove segments; those that are not there are none to remove."""


class DirectoryToFill(SegmentsToFill):
    """Files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.outside = FilesOutside(directory)
        directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)

    def put(self, name: str, content: bytes) -> None:
        path = self._directory / name
        try:
            with suppress(FileNotFoundError):
                files.unlink(path)
            descriptor = files.create(path)
            try:
                files.write_at(descriptor, [content], 0)
                files.sync(descriptor)
            finally:
                os.close(descriptor)
            files.sync_directory(self._directory)
        except OSError as error:
            raise storage_error(f"write {path}", error) from error

    def remove(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                with suppress(FileNotFoundError):
                    files.unlink(self._directory / name)
            files.sync_directory(self._directory)
        except OSError as error:
            raise storage_error(f"remove segments in {self._directory}", error) from error


class BucketToFill(SegmentsToFill):
    """Objects in a bucket; open segments are none."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.outside = ObjectsOutside(bucket)

    def put(self, name: str, content: bytes) -> None:
        key = key_of(name.removesuffix(SEALED))
        if not self._bucket.create(key, [content]):
            # A name is random: an earlier try was cut short behind it.
            self._bucket.replace(key, content)

    def remove(self, names: Iterable[str]) -> None:
        self._bucket.delete(key_of(name.removesuffix(SEALED)) for name in names)
