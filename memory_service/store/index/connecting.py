"""Connections to PostgreSQL: how they are made, whether they are open still, and their end."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from memory_format import StorageError
from memory_service.store.index.reading import UNANSWERED

logger = logging.getLogger(__name__)

CONNECTIONS: Final = 8
"""At most; where one process has the index alone, the one that writes is among them."""
POOL_SECONDS: Final = 10
_SILENT_SECONDS: Final = 2.0
"""Between looks whether a database is there, at the end."""
PIPELINE: Final = "exemplar_memory_pipeline"

# Beside the driver's, for the server's side of a connection that is cut. And what is committed is durable, whatever is
# usual at this server.
_SESSION: Final = """
SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '60s';
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '25s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""


@contextmanager
def driver_errors(connection: sa.Connection | sa.Engine) -> Iterator[None]:
    """Around what goes past SQLAlchemy."""
    driver: Any = connection.dialect.dbapi
    try:
        yield
    except driver.Error as error:
        raise sa.exc.DBAPIError(None, None, error) from error


class Told:
    """The first column of what a statement gives, which is sent at once and waited for when somebody looks. Then is
    soon enough behind the transaction: it is there by that time.

    Args:
        statement: for the driver.
    """

    def __init__(self, connection: sa.Connection, statement: str, parameters: Mapping[str, Any]) -> None:
        self._connection = connection
        with driver_errors(connection):
            self._cursor: Any = _driver(connection).execute(statement, parameters)

    def __iter__(self) -> Iterator[Any]:
        with driver_errors(self._connection):
            rows = self._cursor.fetchall()
        return (row[0] for row in rows)


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


def parse(url: str) -> sa.URL:
    """Raises ``StorageError``: it is none of these; without a word of it, as there may be a password in it."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = sa.URL.create("none")
    if parsed.drivername not in ("postgresql", "postgresql+psycopg") or "@" in f"{parsed.host}{parsed.database}":
        raise StorageError(
            "the index is postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE, what is given is not; in a password, "
            "@ is written %40, : %3A and / %2F"
        )
    return parsed.set(drivername="postgresql+psycopg")


def make_engine(url: sa.URL) -> sa.Engine:
    """A small pool, whose connections are looked at before they are used. Raises ``StorageError``: the driver is
    missing."""
    usual: dict[str, Any] = {
        "application_name": f"memory-service, pid {os.getpid()} on {socket.gethostname()}"[:63],
        # Of a database in SQL_ASCII, which _expect_fit refuses, the driver would give bytes.
        "client_encoding": "utf8",
        "connect_timeout": 5,
        # Preparing a statement would be waited for. The connection that writes does it, in its pipeline.
        "prepare_threshold": None,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # Milliseconds.
        "tcp_user_timeout": 25_000,
    }
    try:
        engine = sa.create_engine(
            url,
            connect_args={name: value for name, value in usual.items() if name not in url.query},
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            # What is stored has no place in a log.
            hide_parameters=True,
        )
    except ImportError as error:
        raise StorageError(
            f"an index in PostgreSQL needs psycopg ({error}): pip install 'exemplar-memory[service,postgres]'"
        ) from error
    event.listen(engine, "connect", _configure)
    event.listen(engine, "checkout", _expect_alive)
    event.listen(engine, "after_cursor_execute", _wait_for_answer)
    return engine


class Links:
    """All connections to one database, to be cut once it is silent. For any thread.

    Args:
        place: what the database is called.
    """

    def __init__(self, url: sa.URL, place: str) -> None:
        self._probe = make_engine(url)
        self._place = place
        self._drivers = weakref.WeakSet[Any]()
        self._lock = threading.Lock()
        self._ending = self._is_cut = False
        self._ended = threading.Event()

    def add(self, *engines: sa.Engine) -> None:
        """What these connect, from now on."""
        for engine in engines:
            event.listen(engine, "do_connect", self._expect_more)
            event.listen(engine, "connect", self._note)

    def end_waiting(self) -> None:
        """From now on, look every few seconds whether the database is there, until :meth:`end`. Once it is not, whoever
        waits for an answer of it has an error, and so has whoever wants a connection."""
        with self._lock:
            begun, self._ending = self._ending, True
        if not begun:
            threading.Thread(target=self._look, name="silence", daemon=True).start()

    def end(self) -> None:
        """Nobody has a connection any more."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(_SILENT_SECONDS):
            try:
                # By another one, as making it has a limit: who is frozen keeps those that there are open, in silence.
                with self._probe.connect():
                    pass
                self._probe.dispose()
            except sa.exc.SQLAlchemyError as error:
                reason = str(error).splitlines()[0]
                logger.warning("%s does not answer, and is waited for no more: %s", self._place, reason)
                return self._cut_all()

    def _cut_all(self) -> None:
        with self._lock:
            self._is_cut = True
            drivers = list(self._drivers)
        for driver in drivers:
            self._cut(driver)

    def _cut(self, driver: Any) -> None:
        """Whoever waits has an error. Others may close it meanwhile."""
        with (
            suppress(OSError, sa.exc.DBAPIError),
            driver_errors(self._probe),
            socket.socket(fileno=os.dup(driver.fileno())) as link,
        ):
            link.shutdown(socket.SHUT_RDWR)

    def _expect_more(self, *_: object) -> None:
        if self._is_cut:
            raise StorageError(f"{self._place} does not answer, and the service ends")

    def _note(self, driver: Any, _record: Any) -> None:
        with self._lock:
            self._drivers.add(driver)
            is_cut = self._is_cut
        if is_cut:
            self._cut(driver)


def _configure(connection: Any, _record: Any) -> None:
    connection.execute(_SESSION)
    connection.commit()


def _wait_for_answer(connection: sa.Connection, *said: Any) -> None:
    """Where statements are sent without waiting, wait for those of which the answer is looked at."""
    pipeline, context = connection.info.get(PIPELINE), said[3]
    if pipeline is not None and not context.execution_options.get(UNANSWERED):
        pipeline.sync()


def _expect_alive(driver: Any, _record: Any, _proxy: Any) -> None:
    """Of a connection that others have used: without asking the server, as SQLAlchemy would."""
    if not _has_heard_nothing(driver):
        raise sa.exc.DisconnectionError


def is_alive(connection: sa.Connection) -> bool:
    """Whether a connection is open still, as far as this side has heard."""
    return not connection.invalidated and _has_heard_nothing(connection.connection.driver_connection)


def _has_heard_nothing(driver: Any) -> bool:
    if driver.closed:
        return False
    poll = select.poll()
    poll.register(driver.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    # The server says something unasked: mostly that it ends. Which error that is depends on how far it has come.
    try:
        driver.execute("SELECT 1")
        driver.rollback()
    except (driver.Error, OSError):
        return False
    return True


def end(connection: sa.Connection) -> None:
    """Close a connection for good: its session's lock goes with it."""
    with suppress(sa.exc.SQLAlchemyError):
        connection.invalidate()
    with suppress(sa.exc.SQLAlchemyError):
        connection.close()
