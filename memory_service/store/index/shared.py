"""The index in a database of PostgreSQL that several replicas of the service share.

Each connection holds its part of the store's lock, so that nobody has the store alone meanwhile. Who changes a buffer
holds it by a lock of the session that writes, for as many transactions as the change takes: while something is put into
the object store no transaction is open. Who has lost the session has lost the lock, and its last transaction is over
once the lock is got again.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from psycopg import errors
from sqlalchemy import event

from memory_format import StorageError
from memory_service.store.index import holding, migrations
from memory_service.store.index.base import ERASING, NAMES, Reading, Taken, Wanted, Writing
from memory_service.store.index.connecting import (
    CONNECTIONS,
    PIPELINE,
    POOL_SECONDS,
    driver_errors,
    is_alive,
    make_engine,
    parse,
)
from memory_service.store.index.database import Database
from memory_service.store.index.erased import Named
from memory_service.store.index.generation import Mark
from memory_service.store.index.postgres import PostgresIndex
from memory_service.store.index.reading import unanswered
from memory_service.store.index.session import Session
from memory_service.store.index.sql import as_storage_error
from memory_service.store.index.taking_part import LOCK_TIMEOUT_SECONDS, take_part
from memory_service.store.index.watching import Watch

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 120.0
"""For how long a segment that was removed can be read on by other replicas."""
_ROUNDED: Final = 1.0
"""Times in the index are whole seconds."""
_TRIES: Final = 5
_PREPARED_AFTER: Final = 5
_AT_IT: Final = {
    NAMES: "a buffer is being made",
    ERASING: "records are being erased, or a buffer is being forked,",
}
"""What others are at that hold no buffer."""

_BEGIN: Final = unanswered(sa.text("BEGIN ISOLATION LEVEL READ COMMITTED"))
_COMMIT: Final = sa.text("COMMIT")
_ROLLBACK: Final = sa.text("ROLLBACK")


class SharedIndex(Database):
    """The database of one store, beside other replicas; :meth:`prepare` comes before anything else.

    Args:
        url: as :class:`PostgresIndex` takes it.
        keeps_learners: whether bytes of learners are counted.

    Raises:
        StorageError: as :func:`take_part`; the database cannot be used.
    """

    is_shared: ClassVar[bool] = True
    grace_seconds: ClassVar[float] = GRACE_SECONDS + _ROUNDED

    def __init__(self, url: str, *, keeps_learners: bool) -> None:
        parsed = parse(url)
        self._keeps_learners = keeps_learners
        readers, self._writers, self._watching = (make_engine(parsed) for _ in range(3))
        for engine in (readers, self._writers, self._watching):
            event.listen(engine, "connect", self._take_part)
        self._url = url
        self._mine = threading.local()
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self._idle: deque[Session] = deque()
        # Nobody waits for the end of what is committed already.
        self._ending = ThreadPoolExecutor(2, "letting-go")
        self.watch: Watch | None = None
        super().__init__(parsed, readers)
        self._links.add(self._writers, self._watching)

    def _take_part(self, driver: Any, _record: Any) -> None:
        try:
            take_part(driver, self, keeps_learners=self._keeps_learners)
        except BaseException:
            driver.close()
            raise

    def prepare(self, data: Path) -> Mark:
        """As :meth:`PostgresIndex.prepare`. Tables are made, and brought up to date, by one that has the store alone
        for a moment. Raises ``StorageError``: replicas of an earlier version use it, or a newer one made it."""
        tries = 0
        while self.schema != migrations.HEAD:
            # Else replicas of that version would only be in the way.
            migrations.expect_known(self.schema)
            tries += 1
            # Its own connections would be in the way.
            self._engine.dispose()
            try:
                alone = PostgresIndex(self._url)
                try:
                    alone.seen()
                    alone.prepare(data)
                finally:
                    alone.close()
            except StorageError as error:
                # Another replica may be doing that.
                if error.code != "store_locked" or tries == _TRIES:
                    raise
            self.seen()
        self.watch = Watch(self._watching, data, self._name)
        # Before anything is read: of what is erased from here on it is told.
        self.erasures_before = self.watch.join()
        with as_storage_error(), self._at_once.connect() as connection:
            return Mark(*connection.execute(holding.COUNT_IN_STORE, self._counting(2)).one())

    def _name(self, replica: Named) -> None:
        self.replica = replica

    def _counting(self, by: int) -> dict[str, object]:
        return {"by": by, "keeps": self._keeps_learners}

    # Sessions

    @property
    def _session(self) -> Session | None:
        """This thread's, while it changes something."""
        found: Session | None = getattr(self._mine, "session", None)
        return found

    @contextmanager
    def changing(self, buffer_id: int, wanted: Wanted | None = None) -> Iterator[Taken]:
        with self._own(buffer_id, wanted) as session:
            yield Taken(session.number, session.found)

    @contextmanager
    def _own(self, buffer_id: int | None, wanted: Wanted | None = None) -> Iterator[Session]:
        """A session for this thread."""
        if not self._free.acquire(timeout=POOL_SECONDS):
            raise StorageError(f"all {CONNECTIONS} connections that change the index in {self.place} are in use")
        try:
            session = self._new_session(buffer_id, wanted)
        except BaseException:
            self._free.release()
            raise
        outer, self._mine.session = self._session, session
        try:
            yield session
        finally:
            self._mine.session = outer
            if buffer_id is None:
                self._let_go(session)
            else:
                self._ending.submit(self._let_go, session)

    @contextmanager
    def _at_hand(self) -> Iterator[Session]:
        """This thread's session, or else one for a moment: who holds one waits for no other, as all of them might."""
        session = self._session
        if session is None:
            with self._own(None) as session:
                yield session
            return
        if session.lost:
            raise StorageError("the index cannot be used: the connection that held the buffer was lost")
        yield session

    def _new_session(self, buffer_id: int | None, wanted: Wanted | None) -> Session:
        session: Session | None = None
        with suppress(IndexError):
            while session is None:
                session = self._idle.pop()
                if not is_alive(session.connection):
                    session.end()
                    session = None
        with as_storage_error():
            session = session or self._connect()
        self._take(session, buffer_id, wanted)
        return session

    def _connect(self) -> Session:
        connection = self._writers.connect().execution_options(isolation_level="AUTOCOMMIT")
        session = Session(connection, ExitStack())
        try:
            # Who has had the store alone before, and comes back, finds that it was not.
            connection.execute(holding.COUNT_IN_STORE, self._counting(2))
            connection.commit()
            session.driver.prepare_threshold = _PREPARED_AFTER
            connection.info[PIPELINE] = session.pipeline.enter_context(session.driver.pipeline())
        except BaseException:
            session.end()
            raise
        return session

    def _take(self, session: Session, buffer_id: int | None, wanted: Wanted | None = None) -> None:
        """Hold a buffer from here on."""
        session.buffer_id = buffer_id
        if buffer_id is None:
            return
        try:
            with as_storage_error(), driver_errors(session.connection):
                session.driver.execute(holding.TAKE_BUFFER, [buffer_id])
                given = {"of": buffer_id, "ids": 0 if session.segment_ids else 2}
                # In a statement of its own: this one sees what was committed before the lock was got.
                if wanted is None:
                    rows = session.connection.execute(holding.BUFFER, given).all()
                else:
                    given |= wanted.parameters(buffer_id)
                    rows = session.connection.execute(wanted.statement(holding.AND_ANSWERS), given).all()
        except StorageError as error:
            session.end()
            if isinstance(getattr(error.__cause__, "orig", None), errors.LockNotAvailable):
                raise StorageError(
                    f"{_AT_IT.get(buffer_id, 'the buffer is being changed')} through another replica for more than "
                    f"{LOCK_TIMEOUT_SECONDS} seconds"
                ) from error
            raise
        except BaseException:
            session.end()
            raise
        session.segment_ids.extend(rows[0].ids)
        session.began = session.number = rows[0].number
        session.found = None if wanted is None else wanted.found(rows)

    def _let_go(self, session: Session) -> None:
        try:
            if not session.lost and session.buffer_id is not None:
                with driver_errors(session.connection):
                    session.driver.execute(holding.LEAVE_BUFFER, [session.buffer_id])
                    session.connection.info[PIPELINE].sync()
            if not session.lost:
                session.buffer_id = session.began = session.number = session.found = None
                self._idle.append(session)
        except Exception as error:
            # The lock goes with it. Whatever it is: nobody hears it from here, and what was committed stays.
            logger.warning("a connection to %s is given up: %s", self.place, error)
            session.end()
        finally:
            self._free.release()

    def _renew(self, session: Session) -> None:
        """Hold the buffer again: then what the session that was lost came to can be asked for."""
        with as_storage_error():
            new = self._connect()
        try:
            self._take(new, session.buffer_id)
        except BaseException:
            new.end()
            raise
        for name, value in vars(new).items():
            setattr(session, name, value)

    def end_silent(self) -> None:
        """End connections of replicas whose transaction has waited for its next statement for too long."""
        holding.end_silent(self._at_once, self.place)

    # Transactions

    @contextmanager
    def reading(self, *, alone: bool = False) -> Iterator[Reading]:
        session = self._session
        if session is not None and session.lost:
            self._renew(session)
        if not alone:
            with super().reading() as reading:
                yield reading
            return
        with as_storage_error(), self._at_once.connect() as connection:
            yield Reading(connection, shared=True)

    @contextmanager
    def writing(self, *, counted: bool = True) -> Iterator[Writing]:
        with self._at_hand() as session, as_storage_error(), self._transaction_of(session):
            # Where a buffer is held, always counted: the other replicas keep its ledger too, which has answers in it.
            writing = self._begun(session)
            yield writing
            with self._names_lock:
                gone = set(self._gone)
            self._forget_names(session.connection, gone)
        with self._names_lock:
            self._gone -= gone
        session.number = writing.changed_to if session.buffer_id else session.number

    def _begun(self, session: Session) -> Writing:
        to = None
        if session.buffer_id and session.number is not None:
            session.connection.execute(holding.COUNT, {"of": session.buffer_id, "seen": session.number})
            to = session.number + 1
        return Writing(session.connection, to, session.segment_ids, grace_seconds=GRACE_SECONDS)

    @contextmanager
    def _transaction_of(self, session: Session) -> Iterator[None]:
        try:
            try:
                session.connection.execute(_BEGIN)
                yield
            except BaseException:
                try:
                    session.connection.execute(_ROLLBACK)
                except sa.exc.SQLAlchemyError:
                    session.end()
                raise
            try:
                self._commit(session)
            except BaseException:
                session.end()
                raise
        except sa.exc.DBAPIError as error:
            if isinstance(error.orig, errors.DivisionByZero):
                raise StorageError(f"the index in {self.place} changed behind the service's back") from error
            if isinstance(error.orig, errors.InvalidTextRepresentation):
                raise StorageError("a segment was put too late: it may be removed by now") from error
            raise

    def _commit(self, session: Session) -> None:
        session.connection.execute(_COMMIT)

    # What is in which order, and names

    def made_here(self, since: int, to: int) -> bool:
        session = self._session
        mine = session is not None and session.began is not None and session.number is not None
        if session is None or not mine:
            return since == to
        return since == to or (session.began or 0) <= since <= to <= (session.number or 0)

    def take_stem(self) -> str:
        # Named in the index before it is put.
        return uuid.uuid4().hex

    def begin_uploads(self, stems: Sequence[str], seconds: float) -> int:
        # What is uploaded becomes new segments, and one more may be begun.
        with self._at_hand() as session, as_storage_error():
            given = {"stems": list(stems), "seconds": seconds, "ids": max(0, len(stems) + 1 - len(session.segment_ids))}
            given |= self._counting(1)
            row = session.connection.execute(holding.BEGIN_UPLOADS, given).one()
            session.segment_ids.extend(row.ids)
        return int(row.changes)

    def dead(self, stems: Sequence[str]) -> Mapping[str, bool]:
        with self.writing() as transaction:
            return transaction.claim_dead(stems)

    def check_writable(self) -> None:
        with self._own(None) as session, as_storage_error(), self._transaction_of(session):
            session.connection.execute(sa.text("SELECT id FROM store FOR UPDATE")).all()

    def close(self) -> None:
        self._ending.shutdown()
        if self.watch is not None:
            self.watch.close()
        while self._idle:
            self._idle.pop().end()
        self._writers.dispose()
        super().close()
