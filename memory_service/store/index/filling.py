"""The index of a store that is made from a copy of another one: all at once, or not at all."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from memory_service.store.index.opening import INDEX
from memory_service.store.segments import files


class IndexToFill(ABC):
    """Where an index is made. Every method raises ``StorageError`` where that cannot be done."""

    place: str
    """In words, of a database; empty of a file."""

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """Keep services away, as a context. Raises ``StorageError``: ``store_locked``."""

    @abstractmethod
    def claim(self, store_id: str, *, resumed: bool) -> bool:
        """From here on nobody takes it for a store before it is filled; whether it is already.

        Args:
            resumed: this migration had begun before.

        Raises:
            StorageError: something else is there.
        """

    @abstractmethod
    def fill(self, copy: Path) -> None:
        """Make the index of a copy, which is a database of SQLite in one file, and may be gone then."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


class FileToFill(IndexToFill):
    """A file in a directory that the caller holds."""

    place = ""

    def __init__(self, data: Path) -> None:
        self._data = data

    @contextmanager
    def held(self) -> Iterator[None]:
        yield

    def claim(self, store_id: str, *, resumed: bool) -> bool:
        # It comes there by its last name, and the directory says until then that something is not whole.
        return resumed and (self._data / INDEX).exists()

    def fill(self, copy: Path) -> None:
        descriptor = files.open_for_writing(copy)
        try:
            files.sync(descriptor)
        finally:
            os.close(descriptor)
        files.rename(copy, self._data / INDEX)
        files.sync_directory(self._data)

    def close(self) -> None:
        """Nothing is open."""
