"""The index in a database of PostgreSQL.

One connection writes, and for as long as it lives it holds the store by an advisory lock: who has lost it cannot write.
Who gets it again looks first whether somebody else has had it meanwhile. And once it is got again, the session that
had it before is over, so that what its last transaction came to can be asked for.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from memory_format import StorageError
from memory_service.store.index import migrations, tables
from memory_service.store.index.base import Reading, Writing
from memory_service.store.index.connecting import PIPELINE, driver_errors, end, is_alive, make_engine, parse
from memory_service.store.index.database import HOLDER, TAKE_LOCK, Database
from memory_service.store.index.generation import Mark
from memory_service.store.index.reading import UNANSWERED
from memory_service.store.index.sql import AHEAD, as_storage_error
from memory_service.store.index.watching import named_in

logger = logging.getLogger(__name__)

_PREPARED_AFTER: Final = 5
"""Uses of a statement, in the connection that writes."""
_LOCK_SECONDS: Final = 3.0
"""For how long the lock is asked for: the session of a process that has just ended may live a little longer."""

_COUNT: Final = """
UPDATE store SET changes = changes + 1
RETURNING changes, ARRAY(SELECT nextval(pg_get_serial_sequence('segments', 'id')) FROM generate_series(1, %s::int))
"""
"""And ids for new segments, which need not be asked for then."""
_BEGIN: Final = sa.text("BEGIN ISOLATION LEVEL READ COMMITTED").execution_options(**{UNANSWERED: True})
_COMMIT: Final = sa.text("COMMIT")
_OPENED: Final = sa.text(
    "WITH others AS (UPDATE buffers SET changes = changes + 1) "
    "UPDATE store SET changes = changes + 2, learners_counted = false RETURNING store_id, changes"
)
"""A start leaves a number out. So who has lost the store, and does not know whether its last change was committed,
finds one change more if it was, and two or more if somebody else has opened the store. Replicas that come back look at
every buffer anew."""


class PostgresIndex(Database):
    """The database of one store, held for this process; :meth:`prepare` comes before anything else.

    Args:
        url: ``postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE``; what libpq knows may follow it, as in
            ``?sslmode=verify-full``. What is not said there is taken from the environment (``PGPASSFILE``).

    Raises:
        StorageError: ``store_locked`` where another process holds it; the database cannot be used.
    """

    def __init__(self, url: str) -> None:
        parsed = parse(url)
        self._holder: sa.Connection | None = None
        self._number: int | None = None
        """Of the last change that this process has counted."""
        self._pipeline = ExitStack()
        """In which the connection that writes sends statements without waiting for the last one's answer."""
        self._counted: Any = None
        """The cursor of the statement that counts the transaction under way, its answer not looked at yet."""
        self._segment_ids: deque[int] = deque()
        """Of the next new segments: nobody else is given them."""
        self._undecided = False
        """Whether the last transaction may have been committed, or be about to."""
        super().__init__(parsed, make_engine(parsed))
        try:
            with as_storage_error():
                self._hold()
        except BaseException:
            self.close()
            raise

    # Opening

    def prepare(self, data: Path) -> Mark:
        """Make the tables or bring them up to date, and note that somebody has opened the store; returns what the index
        says of itself then. Comes behind :meth:`seen`.

        Args:
            data: the store's directory.

        Raises:
            StorageError: a newer version made it, or it cannot be written.
        """
        self.replica = named_in(data)
        with as_storage_error():
            migrations.bring_up_to_date(self._engine, tables.metadata, data, self.schema)
            with self._write_lock:
                mark = Mark(*self._held().execute(_OPENED).one())
            self._number = mark.changes
            return mark

    # Holding it

    def _hold(self) -> None:
        """Take the lock, in a connection that writes from here on."""
        # Transactions are begun by _transaction, with their first statement.
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            self._take_lock(connection)
            if self._number is not None:
                found = connection.execute(sa.select(tables.store.c.changes)).scalar_one()
                if found not in (self._number, self._number + self._undecided):
                    raise StorageError(
                        f"another process has held the store in {self.place} since this one lost its connection: "
                        "start this one anew",
                        code="store_locked",
                    )
                self._number = found
            connection.commit()
            driver: Any = connection.connection.driver_connection
            driver.prepare_threshold = _PREPARED_AFTER
            connection.info[PIPELINE] = self._pipeline.enter_context(driver.pipeline())
        except BaseException:
            end(connection)
            raise
        self._holder, self._undecided = connection, False

    def _take_lock(self, connection: sa.Connection) -> None:
        end = time.monotonic() + _LOCK_SECONDS
        while not (found := connection.execute(TAKE_LOCK).one()).taken:
            self.expect_fit(found)
            if time.monotonic() > end:
                holder = connection.execute(HOLDER).scalar() or "which does not say its name"
                raise StorageError(
                    f"the store in {self.place} is held by another process ({holder})", code="store_locked"
                )
            connection.commit()
            time.sleep(0.02)
        self.expect_fit(found)
        if found.fsync != "on" and self._number is None:
            logger.warning("%s has fsync off: a crash of its machine loses what was acknowledged", self.place)

    def _held(self) -> sa.Connection:
        """The connection that writes. Called with the lock."""
        if self._holder is not None and not is_alive(self._holder):
            self._let_go()
        if self._holder is None:
            self._hold()
        assert self._holder is not None
        return self._holder

    def _let_go(self) -> None:
        if self._holder is not None:
            end(self._holder)
            self._holder = None
            # A server that has crashed may give those of an uncommitted transaction again.
            self._segment_ids.clear()
            # Its connection is closed: whatever it says of that, the error that led here counts.
            with suppress(Exception):
                self._pipeline.close()

    # Transactions

    @contextmanager
    def reading(self, *, alone: bool = False) -> Iterator[Reading]:
        if self._undecided:
            # What a session that lives still may be about to commit must not be looked for.
            with self._write_lock, as_storage_error():
                self._held()
        if not alone:
            with super().reading() as reading:
                yield reading
            return
        with as_storage_error(), self._at_once.connect() as connection:
            yield Reading(connection)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        connection = self._held()
        self._counted = None
        try:
            connection.execute(_BEGIN)
            yield connection
            self._expect_counted(connection)
        except BaseException:
            try:
                connection.rollback()
            except sa.exc.SQLAlchemyError:
                self._let_go()
            raise
        try:
            self._commit(connection)
        except BaseException:
            self._undecided = True
            self._let_go()
            raise

    def _commit(self, connection: sa.Connection) -> None:
        # As a statement: commit() may do nothing in a pipeline (findings/psycopg_commit_unheard.sh).
        connection.execute(_COMMIT)

    def _begin(self, connection: sa.Connection, *, counted: bool) -> Writing:
        if not counted:
            return Writing(connection, segment_ids=self._segment_ids)
        assert self._number is not None
        few = len(self._segment_ids) < AHEAD // 2
        driver: Any = connection.connection.driver_connection
        # Who holds the lock knows the number: whether it is that is looked at before the end.
        with driver_errors(connection):
            self._counted = driver.execute(_COUNT, [AHEAD if few else 0])
        return Writing(connection, self._number + 1, self._segment_ids)

    def _expect_counted(self, connection: sa.Connection) -> None:
        """Raises ``StorageError``: somebody else has changed the number. Waits where nobody has for any answer yet."""
        if self._counted is None:
            return
        with driver_errors(connection):
            number, ids = self._counted.fetchone()
        if number != (self._number or 0) + 1:
            raise StorageError(f"the index in {self.place} changed behind the service's back")
        self._segment_ids.extend(ids)

    def _note(self, writing: Writing) -> None:
        if writing.changed_to is not None:
            self._number = writing.changed_to
        super()._note(writing)

    def close(self) -> None:
        if self._holder is not None:
            with suppress(sa.exc.SQLAlchemyError):
                # The session may outlive this by a moment.
                self._holder.exec_driver_sql("SELECT pg_advisory_unlock_all()")
            self._let_go()
        super().close()
