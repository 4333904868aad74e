"""The index in SQLite: short read and write transactions through SQLAlchemy Core."""

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
from memory_service.store.index import migrations, tables
from memory_service.store.index.generation import Generation, Mark
from memory_service.store.index.intents import Intents
from memory_service.store.segments import files

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

_COUNT = tables.store.update().values(changes=tables.store.c.changes + 1).returning(tables.store.c.changes)


class Index:
    """The database of one store: short read and write transactions.

    Raises:
        StorageError: ``storage_failed`` where the database cannot be opened, is damaged, or was made by a
            newer version.
    """

    def __init__(self, path: Path, *, migrate: bool = True) -> None:
        self._write_lock = threading.Lock()
        self._wal_bytes = WAL_BYTES
        self._intents = Intents(tables.intents)
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
                    migrations.bring_up_to_date(self._engine, tables.metadata, path.parent)
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
            counted: in :data:`~memory_service.store.index.tables.store`, which costs a page. What no record or file
                has to do with need not be: an index that lacks it destroys nothing.
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
            return Mark(*connection.execute(sa.select(tables.store.c.store_id, tables.store.c.changes)).one())

    def check_writable(self) -> None:
        """Take the write lock and give it back.

        Raises:
            StorageError: the database cannot be written.
        """
        with self._write_lock, self._writing() as connection:
            connection.execute(sa.select(tables.buffers.c.id).limit(1)).all()

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
