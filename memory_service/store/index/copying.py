"""All rows of an index, from one database to another, whichever kinds they are."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from memory_format import StorageError
from memory_service.store.index import migrations, quotas, reports, tables
from memory_service.store.index.reports import StoredReport
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.segments import files

_ROWS: Final = 5000
"""At a time."""
_COUNTED: Final = (tables.buffers, tables.segments)
"""Tables of which no id is ever given twice."""


UNFINISHED: Final = "unfinished_migration"
unfinished = sa.Table(UNFINISHED, sa.MetaData(), sa.Column("store_id", sa.String(32), nullable=False))
"""In a database that gets an index: of which store. It goes with the transaction that makes the index."""


def copy_database(source: sa.Connection, target: Path, *, checked: bool = False) -> None:
    """Copy an index to a database of SQLite in one file, which does not exist.

    Args:
        source: of PostgreSQL, in a transaction that sees one state.
        checked: compare all rows afterwards.

    Raises:
        StorageError: it has another schema than this version's; or the copy is not the same.
        sqlalchemy.exc.SQLAlchemyError: it cannot be read.
    """
    # Copying takes as long as it takes.
    source.execute(sa.text("SET LOCAL statement_timeout = 0"))
    migrations.expect_newest(source.execute(sa.select(migrations.alembic_version.c.version_num)).scalar_one_or_none())
    with closing(SqliteIndex(target)) as index:
        index.refill(lambda connection: _copy_rows(source, connection))
    as_one_file(target)
    if checked:
        with reading_copy(target) as copy:
            if digests(copy) != digests(source):
                raise StorageError("a copy of the index has other rows than the index")


@contextmanager
def reading_copy(path: Path) -> Iterator[sa.Connection]:
    """A copy of an index. Raises ``StorageError``: it cannot be read."""
    with closing(SqliteIndex(path, migrate=False)) as index, index.reading() as reading:
        yield reading.connection


Pieces = Iterable[tuple[int, bytes]]
"""Bodies of an open segment as they were pushed, each with the number of its first record."""


def settle_copy(path: Path, bodies: Iterable[tuple[int, Pieces]] | None = None, *, keep_bodies: bool = False) -> None:
    """Make a copy of an index that of another place: names that files were about to have, or to lose, are the old
    one's, and so are the replicas.

    Args:
        path: the copy, in one file, also afterwards.
        bodies: of open segments, by segment's id, where the index is to keep them.
        keep_bodies: those that it has; else it has none afterwards but ``bodies``.

    Raises:
        StorageError: it cannot be written.
        whatever ``bodies`` raises: nothing has changed then.
    """

    def write(connection: sa.Connection) -> None:
        connection.execute(tables.intents.delete())
        connection.execute(tables.news.delete())
        quotas.forget_learners(connection)
        connection.execute(tables.replicas.delete())
        if not keep_bodies:
            connection.execute(tables.open_bodies.delete())
        for segment_id, pieces in bodies or ():
            rows = [{"segment_id": segment_id, "first": first, "bodies": piece} for first, piece in pieces]
            connection.execute(tables.open_bodies.insert(), rows)

    with closing(SqliteIndex(path, migrate=False)) as index:
        index.refill(write)
    as_one_file(path)


def take_out_reports(path: Path) -> dict[str, bytes]:
    """Reports of runs, by run, of a copy of an index in one file, which has none of them afterwards. Raises
    ``StorageError``."""
    with closing(SqliteIndex(path, migrate=False)) as index:
        with index.reading() as reading:
            found = reports.contents(reading)
        if found:
            index.refill(lambda connection: connection.execute(tables.runs.delete()))
    as_one_file(path)
    return found


def put_in_reports(path: Path, rows: Sequence[StoredReport]) -> None:
    """Put reports of runs into such a copy. Raises ``StorageError``."""
    if not rows:
        return
    with closing(SqliteIndex(path, migrate=False)) as index:
        index.refill(lambda connection: connection.execute(tables.runs.insert(), [asdict(row) for row in rows]))
    as_one_file(path)


def _copy_rows(source: sa.Connection, target: sa.Connection) -> None:
    target.execute(tables.store.delete())
    for table in tables.metadata.sorted_tables:
        for rows in rows_of(source, table):
            target.execute(table.insert(), [row._asdict() for row in rows])
    for name, number in last_ids(source).items():
        target.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
        target.execute(sa.text("INSERT INTO sqlite_sequence VALUES (:name, :seq)"), {"name": name, "seq": number})


def rows_of(source: sa.Connection, table: sa.Table) -> Iterator[list[sa.Row[tuple[object, ...]]]]:
    """All rows of a table, some at a time."""
    # In one read of a server's cursor at a time: all of a table may not fit into memory.
    found = source.execute(sa.select(table).execution_options(stream_results=True, max_row_buffer=_ROWS))
    while rows := found.fetchmany(_ROWS):
        yield list(rows)


def last_ids(connection: sa.Connection) -> dict[str, int]:
    """Table -> the last id that was given in it, 0 where none was."""
    names = [table.name for table in _COUNTED]
    if connection.dialect.name == "sqlite":
        found = connection.execute(sa.text("SELECT name, seq FROM sqlite_sequence")).all()
        return dict.fromkeys(names, 0) | {name: seq for name, seq in found if name in names}
    last = {}
    for name in names:
        sequence = connection.execute(sa.text(f"SELECT pg_get_serial_sequence('{name}', 'id')")).scalar_one()
        value, is_given = connection.execute(sa.text(f"SELECT last_value, is_called FROM {sequence}")).one()
        last[name] = value if is_given else value - 1
    return last


def digests(connection: sa.Connection) -> dict[str, tuple[int, str]]:
    """Table -> how many rows it has, and a digest of them: the same in any database, whatever their order."""
    found = {}
    for table in tables.metadata.sorted_tables:
        number = total = 0
        for rows in rows_of(connection, table):
            for row in rows:
                number += 1
                total += int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest())
        found[table.name] = number, f"{total % 2**256:064x}"
    return found


def as_one_file(path: Path) -> None:
    """A database without a log, which can be read where nothing can be written; durable when this returns."""
    with closing(sqlite3.connect(path)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")
    descriptor = files.open_for_writing(path)
    try:
        files.sync(descriptor)
    finally:
        os.close(descriptor)
