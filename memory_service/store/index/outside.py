"""An index that is looked at from outside: a service may have it open, and nothing of it is changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memory_service.store.index import opening
from memory_service.store.index.generation import Mark
from memory_service.store.index.opening import Standing

if TYPE_CHECKING:
    from memory_service.store.index.database import Database


class IndexOutside(ABC):
    """The index of a store. Every method raises ``StorageError`` where it cannot be read."""

    @abstractmethod
    def look(self, *, all_here: bool) -> Standing:
        """As :func:`opening.look`."""

    @abstractmethod
    def mark(self) -> Mark | None:
        """Which store it is of, and how many changes it has seen; None where it does not say."""

    @abstractmethod
    def copy(self, target: Path, *, checked: bool = False) -> None:
        """The index as it is after some change, as a database of SQLite in one file.

        Args:
            target: takes the place of what is there.
            checked: compare all rows afterwards, where they are not copied as they lie.
        """

    @abstractmethod
    def names_segment(self, stem: str) -> bool:
        """Whether it names a segment now."""

    @abstractmethod
    def num_bytes(self) -> int:
        """What it takes where it lies."""

    @contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Keep services away from it, where none holds it already; whether one does."""
        yield False

    def close(self) -> None:  # noqa: B027 - a file needs nothing
        """Let go of it."""


class IndexFile(IndexOutside):
    """A file in a store's directory: who holds that holds it."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def look(self, *, all_here: bool) -> Standing:
        return opening.look(self._data, all_here=all_here)

    def mark(self) -> Mark | None:
        return opening.mark_of(self._data)

    def copy(self, target: Path, *, checked: bool = False) -> None:
        opening.copy_index(self._data, target)

    def names_segment(self, stem: str) -> bool:
        return opening.names_segment(self._data, stem)

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._data.glob(f"{opening.INDEX}*") if path.exists())


class IndexInDatabase(IndexOutside):
    """A database of PostgreSQL; one that reads there is enough.

    Args:
        url: as :class:`PostgresIndex` takes it.
    """

    def __init__(self, data: Path, url: str) -> None:
        # Who has the index in a file needs no driver.
        from memory_service.store.index.connecting import make_engine, parse
        from memory_service.store.index.database import Database

        self._data = data
        self._index: Database = Database(parse(url), make_engine(parse(url)))

    def look(self, *, all_here: bool) -> Standing:
        return opening.look_elsewhere(self._data, self._index.seen(), self._index.place)

    def mark(self) -> Mark | None:
        seen = self._index.seen()
        return None if seen is None else seen.mark

    def copy(self, target: Path, *, checked: bool = False) -> None:
        target.unlink(missing_ok=True)
        self._index.copy(target, checked=checked)

    def names_segment(self, stem: str) -> bool:
        with self._index.reading(alone=True) as reading:
            return bool(reading.known_stems([stem]))

    def num_bytes(self) -> int:
        return self._index.num_bytes()

    @contextmanager
    def held_if_free(self) -> Iterator[bool]:
        with self._index.held_if_free() as is_held:
            yield is_held

    def close(self) -> None:
        self._index.close()
