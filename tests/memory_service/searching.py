"""Looks for what must be nowhere: the bytes of records, in files and rows of a database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from memory_format import Record
from tests.objects import ObjectStore
from tests.postgres import PostgresServer


def pieces_of(record: Record, every: int = 700) -> list[bytes]:
    """Such that a row of the database that has the record has one of them, wherever it is cut; of a longer stride, that
    one of its rows has."""
    return [record.body[at : at + 40] for at in range(0, len(record.body) - 40, every)]


def has(content: bytes, records: Sequence[Record], every: int = 700) -> bool:
    return any(piece in content for record in records for piece in pieces_of(record, every))


def files_with(directory: Path, records: Sequence[Record], every: int = 700) -> set[str]:
    found = set()
    for path in directory.rglob("*"):
        # Others may remove one meanwhile.
        with suppress(FileNotFoundError):
            if path.is_file() and has(path.read_bytes(), records, every):
                found.add(str(path.relative_to(directory)))
    return found


def objects_with(store: ObjectStore, url: str, records: Sequence[Record], every: int = 700) -> set[str]:
    """Below a URL."""
    found = set()
    for key in store.keys(url):
        with suppress(FileNotFoundError):
            if has(store.get(url, key), records, every):
                found.add(key)
    return found


def tables_with(postgres: PostgresServer, records: Sequence[Record], every: int = 700) -> set[str]:
    """Files of a server's tables, and of what belongs to them: rows that are deleted lie there, too."""
    postgres.execute("CHECKPOINT")
    return files_with(Path(postgres.socket) / "data" / "base", records, every)
