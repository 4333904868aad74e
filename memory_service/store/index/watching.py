"""A replica's session that is told of erasures, by which others know that it is there to confirm them."""

from __future__ import annotations

import logging
import re
import select
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from memory_service.store.index import erased
from memory_service.store.index.connecting import driver_errors, end, is_alive
from memory_service.store.index.erased import NOBODY, Named
from memory_service.store.index.sql import as_storage_error
from memory_service.store.segments import files

logger = logging.getLogger(__name__)

REPLICA: Final = "replica"
"""A file in a store's directory that says which replica's it is."""
_OTHER_SECONDS: Final = 3.0
"""For how long one with the same id is waited for: it takes a new one as soon as it is told. A session of a process
that has ended may live a little longer than that."""
_LOOK_SECONDS: Final = 0.02
_PLACE_LENGTH: Final = 100
_NAME: Final = re.compile("[0-9a-f]{32}|-")
_UNNAMED: Final = "-"
"""A start of an earlier version."""


def named_in(data: Path) -> Named:
    """What a store's directory says of itself; :data:`NOBODY` where it says nothing, or nonsense. Raises
    ``OSError``."""
    with suppress(FileNotFoundError):
        id_, *runs = (data / REPLICA).read_text(errors="replace").split() or [""]
        if id_ != _UNNAMED and all(map(_NAME.fullmatch, (id_, *runs))):
            return Named(id_, runs or [_UNNAMED])
    return NOBODY


def _name(data: Path, replica: Named) -> None:
    with files.replacing(data / REPLICA) as descriptor:
        files.write_at(descriptor, ["".join(f"{name}\n" for name in (replica.id, *replica.runs)).encode()], 0)


class Watch:
    """Of one replica. For one thread, but for :meth:`wake`.

    A directory that was copied, as with the image of a machine, names a replica that is another one's by then. So each
    start calls itself by a name of its own, in the directory first and then in the index. Who finds another name in the
    index than in its directory is not the only one any more, and takes a new id.

    Args:
        engine: of its own, gives connections that hold a part of the store's lock.
        data: the directory that its copies are in.
        named: called with what it is known by from then on.
    """

    def __init__(self, engine: sa.Engine, data: Path, named: Callable[[Named], object]) -> None:
        self._engine = engine
        self._data = data
        self._named = named
        self._replica = NOBODY
        self._connection: sa.Connection | None = None
        self._waker, self._woken = socket.socketpair()
        self._confirmed = -1
        self._told = self._listens = False

    def join(self) -> int:
        """Be one who is waited for; returns the number of the last erasure (:func:`erased.count`). What is erased
        behind it is erased from what is read of the index from here on, or :meth:`look` tells. Raises
        ``StorageError``; ``OSError``: the directory cannot be written."""
        found = named_in(self._data)
        if found == NOBODY:
            found = _new()
        elif len(found.runs) == 1:
            # Else that of a start which has ended before the index knew it.
            found = Named(found.id, [uuid.uuid4().hex, *found.runs])
        self._take(found)
        with self._errors():
            number = self._join(self._connect())
            until = time.monotonic() + _OTHER_SECONDS
            while self._driver.execute(erased.OTHERS, {"id": self._replica.id}).fetchone()[0]:
                if time.monotonic() > until:
                    break
                time.sleep(_LOOK_SECONDS)
        return number

    def look(self) -> int:
        """The number of the last erasure. Raises ``StorageError``; ``OSError`` as :meth:`join`."""
        with self._errors():
            if self._connection is None or not is_alive(self._connection):
                self._join(self._connect())
            driver = self._driver
            if not self._listens:
                driver.execute(f"LISTEN {erased.CHANNEL}")
                self._listens = True
            self._told = False
            number, run = driver.execute(erased.LOOK, {"id": self._replica.id}).fetchone()
            if run not in self._replica.runs:
                id_ = self._replica.id
                self._join(driver)
                # Last: so there is none of which nobody knows.
                driver.execute(erased.LEAVE, {"id": id_})
            return int(number)

    def confirm(self, number: int) -> None:
        """There is no copy of what was erased up to that. Raises ``StorageError``."""
        if number != self._confirmed:
            with self._errors():
                self._driver.execute(erased.CONFIRM, {"number": number, **self._replica._asdict()})
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
        found = driver.execute(erased.JOIN, self._given()).fetchone()
        if found is None:
            self._take(_new())
            words = "the directory %s was copied, and another replica has its id: this one is %s from here on"
            logger.warning(words, self._data, self._replica.id[:8])
            self._confirmed = -1
            found = driver.execute(erased.JOIN, self._given()).fetchone()
        self._take(Named(self._replica.id, self._replica.runs[:1]))
        return int(found[0])

    def _given(self) -> dict[str, Any]:
        place = f"{socket.gethostname()} ({self._replica.id[:8]})"[-_PLACE_LENGTH:]
        return {**self._replica._asdict(), "run": self._replica.runs[0], "place": place}

    def _take(self, replica: Named) -> None:
        if replica != self._replica:
            _name(self._data, replica)
            self._replica = replica
            self._named(replica)

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


def _new() -> Named:
    return Named(uuid.uuid4().hex, [uuid.uuid4().hex])
