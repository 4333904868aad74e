"""The index in SQLite, in a file beside the segments."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from memory_format import BusyError, StorageError
from memory_service.store.index import migrations, tables
from memory_service.store.index.sql import SqlIndex, as_storage_error
from memory_service.store.pure.ledger import EMPTY_BYTES, LEAST_WAL_BYTES, WAL_BYTES
from memory_service.store.segments import files


class SqliteIndex(SqlIndex):
    """The database of one store. Raises ``StorageError``: ``storage_failed`` where the database cannot be opened, is
    damaged, or was made by a newer version."""

    def __init__(self, path: Path, *, migrate: bool = True) -> None:
        self._wal_bytes = WAL_BYTES
        if migrate and not path.exists():
            # SQLite would make it for all to read; what it makes beside it gets the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE))
        super().__init__(sa.create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=56))
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        try:
            with as_storage_error():
                if migrate:
                    found = migrations.current(self._engine)
                    migrations.bring_up_to_date(self._engine, tables.metadata, path.parent, found)
                else:
                    migrations.expect_up_to_date(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    def _to_write(self, connection: sa.Connection) -> sa.Connection:
        if connection.info.get("wal_bytes") != self._wal_bytes:
            migrations.execute(connection, f"PRAGMA wal_autocheckpoint={self._wal_bytes // 1024}")
            migrations.execute(connection, f"PRAGMA journal_size_limit={self._wal_bytes}")
            connection.info["wal_bytes"] = self._wal_bytes
        return connection.execution_options(exemplar_memory_writes=True)

    def leave_room(self, num_bytes: int) -> None:
        """Keep the write-ahead log so short that it fits, and a transaction beyond it."""
        before, self._wal_bytes = self._wal_bytes, min(WAL_BYTES, max(LEAST_WAL_BYTES, (num_bytes - EMPTY_BYTES) // 2))
        if self._wal_bytes < before:
            with suppress(StorageError), as_storage_error(), self._write_lock, self._engine.connect() as connection:
                # Where somebody reads just now, the next transaction does it.
                migrations.execute(connection, "PRAGMA wal_checkpoint(TRUNCATE)")

    def refill(self, write: Callable[[sa.Connection], object]) -> None:
        """Have all rows written anew, in one transaction. Raises ``StorageError``."""
        with self._write_lock, as_storage_error(), self._transaction() as connection:
            write(connection)

    def faults(self) -> Iterator[str]:
        """What SQLite finds wrong with its file, and rows that refer to none; nothing where it is sound."""
        with self.reading() as reading:
            for pragma in ("integrity_check", "foreign_key_check"):
                found = reading.connection.exec_driver_sql(f"PRAGMA {pragma}").all()
                if found and found != [("ok",)]:
                    yield f"{pragma}: {found[0]}"

    def shrink(self) -> None:
        """Give pages that hold nothing back to the file system: SQLite keeps them otherwise."""
        # A page that moves has up to three others written: so the log stays as short as it is to be.
        step = self._wal_bytes // (4 * 1024)
        with as_storage_error(), self._engine.connect() as connection:
            driver: Any = self._to_write(connection).connection.driver_connection
            ((free,),) = migrations.execute(connection, "PRAGMA freelist_count")
            # Where there is no room or somebody else writes, the next deletion does it.
            with suppress(sqlite3.OperationalError):
                for _ in range(0, free, step):
                    with self._write_lock:
                        # As a script: execute() of Python 3.11's sqlite3 gives back one page, whatever the number
                        # (findings/sqlite_incremental_vacuum.sh).
                        driver.executescript(f"PRAGMA incremental_vacuum({step})")

    def scrub(self) -> None:
        """SQLite leaves what was deleted in free pages, between the rows of others, and in its log."""
        with as_storage_error(), self._write_lock, self._engine.connect() as connection:
            # Not to a file in the system's directory for temporary ones.
            migrations.execute(connection, "PRAGMA temp_store=MEMORY")
            migrations.execute(connection, "VACUUM")
            ((busy, *_),) = migrations.execute(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise BusyError("somebody reads the index, and its log cannot be emptied meanwhile; ask again")


def _configure(connection: Any, _record: Any) -> None:
    # Transactions are begun by _begin, not by the driver's guesses: it begins none for what starts with WITH
    # (findings/sqlite_with_delete.sh, Python 3.11), and tells no rowcount of it.
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


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("exemplar_memory_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
