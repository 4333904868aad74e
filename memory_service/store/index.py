"""The index: what is where, in SQL through SQLAlchemy Core. SQLite now; only :func:`_configure` and
:func:`_begin` are SQLite's.

A record has no row. A sealed segment says itself what records it holds; the index says which segments a buffer
consists of, which of their records have died and when, and whose score has changed since. That is what keeps a
push of a thousand records one small transaction, and the opening of a million records a matter of reading a few
files (docs/decisions/0004).

The database itself refuses what must never be: a CHECK holds ``bytes_used`` within the budget, and foreign keys
keep a segment's row while a buffer consists of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from memory_format import StorageError
from memory_service.store import files, migrations
from memory_service.store.generation import Generation, Mark
from memory_service.store.intents import Intents

WAL_BYTES = 256 * 1024
"""How long the write-ahead log gets before it is carried over; one transaction may make it longer."""

LEAST_WAL_BYTES = 16 * 1024
"""Where the disk limits leave little room to the store."""

_EMPTY_BYTES = 72 * 1024
"""An empty database, and the log's index."""

LEAST_STORE_BYTES = _EMPTY_BYTES + 2 * LEAST_WAL_BYTES
"""Below it, the files of the store itself do not fit."""

STORE_BYTES = 2 * WAL_BYTES + 128 * 1024
"""Of a store without records: the log, its index and an empty database, and a transaction beyond the log."""

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

buffers = sa.Table(
    "buffers",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("budget_bytes", sa.BigInteger, nullable=False),
    # How the budget was given, where not in bytes: see model.Budget.
    sa.Column("full_samples_per_class", sa.Integer),
    sa.Column("full_sample_bytes", sa.BigInteger),
    sa.Column("num_classes", sa.Integer),
    sa.Column("max_budget_bytes", sa.BigInteger),
    sa.Column("disk_limit_bytes", sa.BigInteger),
    sa.Column("eviction", sa.String(32), nullable=False),
    sa.Column("retain_snapshots", sa.Integer),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("bytes_used", sa.BigInteger, nullable=False),
    sa.Column("num_records", sa.BigInteger, nullable=False),
    sa.Column("next_exemplar_id", sa.BigInteger, nullable=False),
    # See model.BufferConfig.
    sa.Column("draw_key", sa.String(63), nullable=False, server_default=sa.text("''")),
    sa.CheckConstraint("bytes_used >= 0 AND bytes_used <= budget_bytes", name="within_budget"),
    sa.CheckConstraint("num_records >= 0", name="records_counted"),
    # Ids are never given twice: what an old process remembers of a deleted buffer cannot be taken for a new
    # one.
    sqlite_autoincrement=True,
)

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("stem", sa.String(32), nullable=False, unique=True),
    # Of an open segment, the bytes that count: a crash may have left more.
    sa.Column("file_bytes", sa.BigInteger, nullable=False),
    sa.Column("num_records", sa.Integer, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,
)

buffer_segments = sa.Table(
    "buffer_segments",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)
"""Forks share segments, so a segment can be part of several buffers."""

open_rows = sa.Table(
    "open_rows",
    metadata,
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
    sa.Column("first", sa.Integer, primary_key=True),
    sa.Column("headers", sa.LargeBinary, nullable=False),
    sa.Column("learners", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
"""Headers of the records of open segments, a row a push: ``headers`` is an array of ``HEADER_DTYPE``, ``learners``
a JSON list of the learner ids that were new to the segment."""

deaths = sa.Table(
    "deaths",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
    sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Records of a segment that the buffer no longer holds, and the version at which it ceased to."""

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("rank", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""What a record's score and rank are from a version on, where they were changed after its push."""

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("next_exemplar_id", sa.BigInteger, nullable=False),
    sa.Column("num_records", sa.BigInteger, nullable=False),
    sa.Column("bytes_used", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)

classes = sa.Table(
    "classes",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("class_id", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)
"""Classes that a buffer has ever been offered: what a growing budget grows with."""

pushes = sa.Table(
    "pushes",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("idempotency_key", sa.String(128), primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    # See answers.py.
    sa.Column("answer", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sqlite_with_rowid=False,
)

store = sa.Table(
    "store",
    metadata,
    # One row, 1.
    sa.Column("id", _Id, primary_key=True),
    sa.Column("store_id", sa.String(32), nullable=False),
    sa.Column("changes", sa.BigInteger, nullable=False),
)
"""Which store this is the index of, and how many transactions have changed it."""

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("stem", sa.String(32), primary_key=True),
    # Whether a segment's row was removed, and the file is to go; else it is about to be made.
    sa.Column("leaving", sa.Boolean, nullable=False),
    sqlite_with_rowid=False,
)
"""Segment files that no row of ``segments`` speaks of and that may be there all the same."""

BUFFER_TABLES = (buffer_segments, deaths, scores, snapshots, classes, pushes)
"""Tables with a ``buffer_id``, in an order in which their rows can be deleted."""


_COUNT = store.update().values(changes=store.c.changes + 1).returning(store.c.changes)


class Index:
    """The database of one store: short read and write transactions.

    Raises:
        StorageError: ``storage_failed`` where the database cannot be opened, is damaged, or was made by a
            newer version.
    """

    def __init__(self, path: Path, *, migrate: bool = True) -> None:
        self._write_lock = threading.Lock()
        self._wal_bytes = WAL_BYTES
        self._intents = Intents(intents)
        self.generation: Generation | None = None
        """Told of every change, once it is set."""
        if migrate and not path.exists():
            # SQLite would make it for all to read; what it makes beside it gets the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE))
        self._engine = sa.create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=56)
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        try:
            with _as_storage_error():
                if migrate:
                    migrations.bring_up_to_date(self._engine, metadata, path.parent)
                else:
                    migrations.expect_up_to_date(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the index throughout."""
        with _as_storage_error(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, counted: bool = True) -> Iterator[sa.Connection]:
        """A transaction that is durable when this returns, and undone when the block raises.

        Args:
            counted: in :data:`store`, which costs a page. What no record or file has to do with need not be: an index
                that lacks it destroys nothing.
        """
        with self._write_lock:
            with self._writing() as connection:
                changes = connection.execute(_COUNT).scalar_one() if counted else None
                yield connection
                noted = self._intents.note(connection)
            self._intents.noted(*noted)
            if self.generation is not None and changes is not None:
                self.generation.note(changes)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Called with the lock: SQLite takes one writer at a time; waiting there is fair, in its busy handler not."""
        with _as_storage_error(), self._engine.connect() as connection:
            if connection.info.get("wal_bytes") != self._wal_bytes:
                _bound_log(connection, self._wal_bytes)
                connection.info["wal_bytes"] = self._wal_bytes
            connection = connection.execution_options(exemplar_memory_writes=True)
            with connection.begin():
                yield connection

    def bound_log(self, room: int) -> None:
        """Keep the write-ahead log so short that it fits what is left to the store, and a transaction beyond it."""
        before, self._wal_bytes = self._wal_bytes, min(WAL_BYTES, max(LEAST_WAL_BYTES, (room - _EMPTY_BYTES) // 2))
        if self._wal_bytes < before:
            with suppress(StorageError), _as_storage_error(), self._write_lock, self._engine.connect() as connection:
                # Where somebody reads just now, the next transaction does it.
                _pragma(connection, "wal_checkpoint(TRUNCATE)")

    # Names of segment files

    def take_stem(self) -> str:
        """A name for a segment file that is made now: the index knows it already.

        Raises:
            StorageError: there is none, and the index cannot be written.
            OSError: see below.
        """
        if self.generation is not None:
            # A file that is durable is of a generation that is.
            self.generation.sync()
        while (stem := self._intents.take()) is None:
            with self.write():
                pass
        return stem

    def stems_gone(self, stems: Iterable[str]) -> None:
        """Files that were removed, or never made: their names are not needed any more."""
        self._intents.gone(stems)

    def mark(self) -> Mark:
        """Which store this is the index of, and how many changes it has seen."""
        with self.read() as connection:
            return Mark(*connection.execute(sa.select(store.c.store_id, store.c.changes)).one())

    def check_writable(self) -> None:
        """Take the write lock and give it back.

        Raises:
            StorageError: the database cannot be written.
        """
        with self._write_lock, self._writing() as connection:
            connection.execute(sa.select(buffers.c.id).limit(1)).all()

    def shrink(self) -> None:
        """Give pages that hold nothing back to the file system: SQLite keeps them otherwise."""
        with _as_storage_error(), self._write_lock, self._engine.connect() as connection:
            _pragma(connection, "incremental_vacuum")

    def close(self) -> None:
        self._engine.dispose()
        if self.generation is not None:
            self.generation.close()
            self.generation = None


def _configure(connection: Any, _record: Any) -> None:
    # Transactions are begun by _begin, not by the driver's guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    # The first two count in a new file only, and before its first table. Small pages, as a small change writes
    # whole pages twice; a short write-ahead log, as it is on the same disk as what the disk limit bounds.
    for pragma in (
        "page_size=1024",
        "busy_timeout=3000",
        "auto_vacuum=INCREMENTAL",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _bound_log(connection: sa.Connection, num_bytes: int) -> None:
    _pragma(connection, f"wal_autocheckpoint={num_bytes // 1024}")
    _pragma(connection, f"journal_size_limit={num_bytes}")


def _pragma(connection: sa.Connection, pragma: str) -> None:
    # Past SQLAlchemy, which would begin a transaction.
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(f"PRAGMA {pragma}").fetchall()


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("exemplar_memory_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _as_storage_error() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
        raise StorageError(f"the index cannot be used: {reason}") from error
