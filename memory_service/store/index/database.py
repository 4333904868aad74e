"""An index in a database of PostgreSQL, whoever holds it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import sqlalchemy as sa

from memory_format import BusyError, StorageError
from memory_service.store.index import erased, migrations, tables
from memory_service.store.index.base import Writing
from memory_service.store.index.connecting import Links, end
from memory_service.store.index.copying import UNFINISHED, copy_database
from memory_service.store.index.generation import Mark
from memory_service.store.index.opening import Seen
from memory_service.store.index.sql import SqlIndex, as_storage_error

STORE: Final = 1701668205
"""The first number of a store's lock: a database holds one in each schema."""
LOCK: Final = f"{STORE}, hashtext(current_schema())"
FIT: Final = (
    "current_setting('server_encoding') AS encoding, current_setting('fsync') AS fsync, current_schema() AS schema, "
    "pg_is_in_recovery() AS standby"
)
TAKE_LOCK: Final = sa.text(f"SELECT pg_try_advisory_lock({LOCK}) AS taken, {FIT}")
_NUM_BYTES: Final = sa.text(
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r' AND "
    "relnamespace = current_schema()::regnamespace"
)
HOLDERS: Final = (
    "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND "
    "l.granted AND l.classid::bigint = {} AND l.objid = hashtext(current_schema())::bit(32)::bigint::oid AND "
    "l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""Sessions ``a`` that have a lock of the store's, or a part of it."""
HOLDER_OF: Final = f"SELECT a.application_name {HOLDERS}"
HOLDER: Final = sa.text(HOLDER_OF.format(STORE))
_SCRUB_PAUSES: Final = (0.1, 0.4, 1.5, 4.0)
"""Seconds between tries to leave no deleted rows behind."""
_NUMBER: Final = re.compile(r"\d+")
_SEEN: Final = sa.select(
    tables.store.c.store_id,
    tables.store.c.changes,
    sa.select(migrations.alembic_version.c.version_num).scalar_subquery().label("version_num"),
    sa.select(sa.func.count()).select_from(tables.segments).scalar_subquery().label("segments"),
)


class Database(SqlIndex):
    """The tables of one store in a database of PostgreSQL.

    Args:
        url: of the database, as :func:`parse` gives it.
    """

    keeps_documents: ClassVar[bool] = True

    def __init__(self, url: sa.URL, engine: sa.Engine) -> None:
        # Never with a password: errors and logs show it.
        self.place = f"database {url.database or url.username} at {url.host or 'a local socket'}"
        if url.port is not None:
            self.place += f":{url.port}"
        self.schema: str | None = None
        """What :meth:`seen` has found."""
        self.replica = erased.NOBODY
        """By what others know the directory of the store's copies, if any has one."""
        self._links = Links(url, self.place)
        self._links.add(engine)
        self._at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        super().__init__(engine, engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True))

    def seen(self) -> Seen | None:
        """What the index says of itself; None where there are no tables yet. Raises ``StorageError``: there are some,
        and they are none of a store."""
        try:
            with self.reading() as reading:
                row = reading.connection.execute(_SEEN).one()
        except StorageError:
            # Most of all as there are no tables.
            if self._is_there():
                raise
            return None
        self.schema = row.version_num
        return Seen(Mark(row.store_id, row.changes), row.segments)

    def _is_there(self) -> bool:
        """Whether there are a store's tables. Raises ``StorageError``: there are some that are none of a store's."""
        with self.reading() as reading:
            names = set(sa.inspect(reading.connection).get_table_names())
            if UNFINISHED in names:
                raise StorageError(f"a migration into {self.place} did not end: run `memory-service migrate` again")
            if "alembic_version" not in names:
                if others := sorted(names & tables.metadata.tables.keys()):
                    raise StorageError(
                        f"{self.place} has a table {others[0]!r} that is none of a store's: name another database, or "
                        "a schema (?options=-csearch_path%3DNAME)"
                    )
                return False
            if "store" not in names:
                raise StorageError(f"{self.place} is used by something else: name another database, or a schema")
            return True

    def copy(self, target: Path, *, checked: bool = False) -> None:
        """As :meth:`IndexOutside.copy`. Raises ``StorageError``: it has another schema than this version's, or cannot
        be read."""
        with self.reading() as reading:
            copy_database(reading.connection, target, checked=checked)

    def num_bytes(self) -> int:
        """What its tables take in the database."""
        with self.reading(alone=True) as reading:
            return int(reading.connection.execute(_NUM_BYTES).scalar_one())

    def end_waiting(self) -> None:
        self._links.end_waiting()

    def close(self) -> None:
        super().close()
        self._links.end()

    def count_erasure(self) -> int:
        with self.writing() as transaction:
            return erased.count(transaction)

    def behind(self, number: int) -> Sequence[erased.Behind]:
        with self.reading(alone=True) as reading:
            return erased.behind(reading, number, self.replica)

    def confirm(self, writing: Writing, number: int) -> None:
        erased.confirm(writing, number, self.replica)

    @contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Keep services away meanwhile, where none holds it already; whether one does."""
        with as_storage_error():
            connection = self._at_once.connect()
        try:
            with as_storage_error():
                taken = connection.execute(TAKE_LOCK).one().taken
            yield not taken
        finally:
            end(connection)

    def expect_fit(self, found: Any) -> None:
        encoding = found.encoding
        if encoding != "UTF8":
            raise StorageError(f"{self.place} has the encoding {encoding}: make one with UTF8")
        if found.schema is None:
            raise StorageError(f"{self.place} has no schema that search_path names: make it (CREATE SCHEMA)")
        if found.standby:
            raise StorageError(f"{self.place} is a standby, which cannot be written: name the primary")

    def scrub(self) -> None:
        """PostgreSQL leaves what was deleted in its pages. Bodies are in one table alone, which is made anew, but for
        rows that somebody's older snapshot shows: those are copied along."""
        with as_storage_error(), self._engine.connect() as connection:
            bare = connection.execution_options(isolation_level="AUTOCOMMIT")
            for pause in (*_SCRUB_PAUSES, None):
                left = _make_anew(bare, tables.open_bodies.name)
                if not left:
                    return
                if pause is None:
                    raise BusyError(
                        f"a transaction in {self.place} that began before keeps {left} deleted rows there (a dump, a "
                        "standby, or another session: see pg_stat_activity); ask again when it has ended"
                    )
                time.sleep(pause)


def _make_anew(connection: sa.Connection, table: str) -> int:
    """Write a table anew; returns how many deleted rows are in it still. Raises ``StorageError``: that is not said."""
    said: list[str] = []

    def note(notice: Any) -> None:
        said.extend(_NUMBER.findall((notice.message_detail or "").partition("\n")[0])[:1])

    driver: Any = connection.connection.driver_connection
    driver.add_notice_handler(note)
    try:
        connection.execute(sa.text(f"VACUUM (FULL, VERBOSE) {table}"))
    finally:
        driver.remove_notice_handler(note)
    if not said:
        raise StorageError("the database does not say whether deleted rows are gone from its files")
    return max(map(int, said))
