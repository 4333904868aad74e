"""An index in PostgreSQL that is made from a copy of another one, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from memory_format import StorageError
from memory_service.store.index import migrations, tables
from memory_service.store.index.connecting import driver_errors, make_engine, parse
from memory_service.store.index.copying import UNFINISHED, digests, last_ids, reading_copy, rows_of, unfinished
from memory_service.store.index.database import Database
from memory_service.store.index.filling import IndexToFill
from memory_service.store.index.sql import as_storage_error

_LOCK_SECONDS: Final = 3.0
"""For how long the lock is asked for: the session of a try that was cut short may live a little longer."""
_AS_LONG_AS_IT_TAKES: Final = (
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)


class DatabaseToFill(Database, IndexToFill):
    """A database of PostgreSQL."""

    def __init__(self, url: str) -> None:
        parsed = parse(url)
        super().__init__(parsed, make_engine(parsed))

    @contextmanager
    def held(self) -> Iterator[None]:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            with self.held_if_free() as is_held:
                if not is_held:
                    yield
                    return
            if time.monotonic() > until:
                raise StorageError(f"{self.place} is held by another process", code="store_locked")
            time.sleep(0.05)

    def claim(self, store_id: str, *, resumed: bool) -> bool:
        with as_storage_error(), self._engine.connect() as connection, connection.begin():
            names = set(sa.inspect(connection).get_table_names())
            if UNFINISHED in names:
                begun = connection.execute(sa.select(unfinished.c.store_id)).scalar_one()
                if begun != store_id:
                    raise StorageError(f"a migration of another store into {self.place} did not end: name another one")
                return False
            if names & {*tables.metadata.tables, migrations.alembic_version.name}:
                seen = self.seen() if resumed else None
                if seen is not None and seen.mark is not None and seen.mark.store_id == store_id:
                    return True
                raise StorageError(f"{self.place} is not empty: name a database, or a schema, that is")
            unfinished.create(connection)
            connection.execute(unfinished.insert(), {"store_id": store_id})
            return False

    def fill(self, copy: Path) -> None:
        with reading_copy(copy) as source:
            wanted = digests(source)
            with as_storage_error(), self._engine.connect() as connection, connection.begin():
                for statement in _AS_LONG_AS_IT_TAKES:
                    connection.execute(sa.text(statement))
                migrations.create(connection, tables.metadata)
                for table in tables.metadata.sorted_tables:
                    self._copy_in(connection, source, table)
                for name, last in last_ids(source).items():
                    values = {"table": name, "last": max(last, 1), "given": last > 0}
                    connection.execute(
                        sa.text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last, :given)"), values
                    )
                found = digests(connection)
                if found != wanted:
                    raise StorageError(
                        f"{self.place} gives other rows than were written: "
                        + ", ".join(name for name in wanted if wanted[name] != found[name])
                    )
                unfinished.drop(connection)

    def _copy_in(self, connection: sa.Connection, source: sa.Connection, table: sa.Table) -> None:
        driver: Any = connection.connection.driver_connection
        # In alone: a COPY out that is left early makes psycopg 3.3.9's connection unusable
        # (findings/psycopg_copy_left.sh).
        names = ", ".join(f'"{column.name}"' for column in table.columns)
        with (
            driver_errors(connection),
            driver.cursor() as cursor,
            cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN') as copying,
        ):
            for rows in rows_of(source, table):
                for row in rows:
                    copying.write_row(row)
