"""Copies of an index that a service may be changing, and what they say: for backups and checks of a served store.

Like opening.py, this knows that the index is SQLite.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from memory_format import StorageError
from memory_service.store.index.generation import Mark
from memory_service.store.index.opening import connect, reading
from memory_service.store.segments import files


@dataclass(frozen=True)
class NamedSegment:
    """A segment file that an index names."""

    stem: str
    file_bytes: int
    sealed: bool


def copy_index(data: Path, target: Path) -> None:
    """The index as it is after some change, as a database without a log.

    Raises:
        StorageError: it cannot be read.
    """
    target.unlink(missing_ok=True)
    os.close(files.create(target))
    try:
        with reading(data) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            # In one file, which can be read where nothing can be written.
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise StorageError(f"the index of the store in {data} cannot be copied: {error}") from error


def segments_of(copy: Path) -> list[NamedSegment]:
    """The segments that a copy of an index names, oldest first.

    Raises:
        StorageError: a version made it that did not say.
    """
    try:
        with closing(connect(copy)) as connection:
            found = connection.execute("SELECT stem, file_bytes, sealed FROM segments ORDER BY id").fetchall()
    except sqlite3.Error as error:
        raise StorageError(
            f"the index does not say what segments there are ({error}); an earlier version made it: start the service "
            "on the store, or copy its directory while nobody serves it"
        ) from error
    return [NamedSegment(stem, file_bytes, bool(sealed)) for stem, file_bytes, sealed in found]


def mark_of(copy: Path) -> Mark | None:
    """Which store a copy is the index of, and how many changes it has seen; None where it does not say."""
    with closing(connect(copy)) as connection:
        if not connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'store'").fetchone()[0]:
            return None
        return Mark(*connection.execute("SELECT store_id, changes FROM store").fetchone())


def names_segment(data: Path, stem: str) -> bool:
    """Whether the index of a store names a segment now."""
    with reading(data) as connection:
        return connection.execute("SELECT 1 FROM segments WHERE stem = ?", [stem]).fetchone() is not None
