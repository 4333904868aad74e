"""A replica's session that is told of erasures, by which others know that it is there to confirm them."""

from __future__ import annotations

import re
import select
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from memory_service.store.index import erased
from memory_service.store.index.connecting import driver_errors, end, is_alive
from memory_service.store.index.sql import as_storage_error
from memory_service.store.segments import files

REPLICA: Final = "replica"
"""A file in a store's directory that says which replica's it is."""
_PLACE_LENGTH: Final = 100
_ID: Final = re.compile("[0-9a-f]{32}")


def replica_id(data: Path, *, make: bool) -> str:
    """Of a store's directory; empty where it has none, or what is none, and none is made. Raises ``OSError``."""
    with suppress(FileNotFoundError):
        found = (data / REPLICA).read_text(errors="replace").strip()
        if _ID.fullmatch(found):
            return found
    made = uuid.uuid4().hex if make else ""
    if make:
        with files.replacing(data / REPLICA) as descriptor:
            files.write_at(descriptor, [f"{made}\n".encode()], 0)
    return made


class Watch:
    """Of one replica. For one thread, but for :meth:`wake`.

    Args:
        engine: of its own, gives connections that hold a part of the store's lock.
        replica_id: of the directory that its copies are in, 32 characters.
    """

    def __init__(self, engine: sa.Engine, replica_id: str) -> None:
        self._engine = engine
        self._id = replica_id
        self._connection: sa.Connection | None = None
        self._waker, self._woken = socket.socketpair()
        self._confirmed = -1
        self._told = self._listens = False

    def join(self) -> int:
        """Be one who is waited for; returns the number of the last erasure (:func:`erased.count`). What is erased
        behind it is erased from what is read of the index from here on, or :meth:`look` tells. Raises
        ``StorageError``."""
        with self._errors():
            return self._join(self._connect())

    def look(self) -> int:
        """The number of the last erasure. Raises ``StorageError``."""
        with self._errors():
            if self._connection is None or not is_alive(self._connection):
                self._join(self._connect())
            driver = self._driver
            if not self._listens:
                driver.execute(f"LISTEN {erased.CHANNEL}")
                self._listens = True
            self._told = False
            return int(driver.execute(erased.LOOK, {"id": self._id}).fetchone()[0])

    def confirm(self, number: int) -> None:
        """There is no copy of what was erased up to that. Raises ``StorageError``."""
        if number != self._confirmed:
            with self._errors():
                self._driver.execute(erased.CONFIRM, {"number": number, "id": self._id})
            self._confirmed = number

    def wait(self, seconds: float) -> None:
        """Until somebody erases something, or for so long, or until :meth:`wake`."""
        if self._told:
            # While something else was asked.
            return
        # Not select(), which takes no descriptor beyond the 1,023rd.
        poll = select.poll()
        for told in (self._woken, *([self._driver] if self._connection is not None else ())):
            poll.register(told, select.POLLIN)
        poll.poll(1000 * seconds)

    def wake(self) -> None:
        """End :meth:`wait`, now and from here on."""
        self._waker.send(b"x")

    @property
    def _driver(self) -> Any:
        """Asked past SQLAlchemy, which would begin transactions."""
        assert self._connection is not None
        return self._connection.connection.driver_connection

    def _connect(self) -> Any:
        self._let_go()
        self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._confirmed, self._listens = -1, False
        self._driver.add_notify_handler(self._note)
        return self._driver

    def _join(self, driver: Any) -> int:
        place = f"{socket.gethostname()} ({self._id[:8]})"[-_PLACE_LENGTH:]
        return int(driver.execute(erased.JOIN, {"id": self._id, "place": place}).fetchone()[0])

    def _note(self, _: Any) -> None:
        self._told = True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with as_storage_error(), driver_errors(self._engine):
                yield
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        if self._connection is not None:
            end(self._connection)
            self._connection = None

    def close(self) -> None:
        """Nobody waits for its word any more."""
        self._let_go()
        self._engine.dispose()
        self._waker.close()
        self._woken.close()
