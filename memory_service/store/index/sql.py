"""An index in a database that SQLAlchemy knows: short read and write transactions."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from memory_format import StorageError
from memory_service.store.index import tables
from memory_service.store.index.base import Index
from memory_service.store.index.generation import Generation, Mark
from memory_service.store.index.intents import Intents
from memory_service.store.index.selects import Selects
from memory_service.store.index.updates import Updates

logger = logging.getLogger(__name__)

_COUNT = tables.store.update().values(changes=tables.store.c.changes + 1).returning(tables.store.c.changes)


class SqlIndex(Index):
    """The database of one store, its tables made already."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._write_lock = threading.Lock()
        self._intents = Intents(tables.intents)
        self._made_from = self._made_to = -1
        """The last changes without anybody else's in between: behind the one number, up to and with the other."""
        self.generation: Generation | None = None
        """Told of every change, once it is set."""

    @contextmanager
    def reading(self) -> Iterator[Selects]:
        with self.read() as connection:
            yield Selects(connection)

    @contextmanager
    def writing(self, *, counted: bool = True) -> Iterator[Updates]:
        with self.write(counted=counted) as connection:
            yield Updates(connection, connection.info["changed_to"])

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """:meth:`reading` for statements that are not the store's."""
        with as_storage_error(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, counted: bool = True) -> Iterator[sa.Connection]:
        """:meth:`writing` for statements that are not the store's."""
        # A database may take one writer at a time; waiting here is fair, in SQLite's busy handler not.
        with self._write_lock:
            with as_storage_error(), self._engine.connect() as connection:
                connection = self._to_write(connection)
                with connection.begin():
                    changes = connection.execute(_COUNT).scalar_one() if counted else None
                    connection.info["changed_to"] = changes
                    yield connection
                    noted = self._intents.note(connection)
            self._intents.noted(*noted)
            if changes is not None:
                if changes != self._made_to + 1:
                    self._made_from = changes - 1
                self._made_to = changes
                if self.generation is not None:
                    self.generation.note(changes)

    def _to_write(self, connection: sa.Connection) -> sa.Connection:
        """A connection in which the next transaction writes. Called with the lock."""
        return connection

    def made_here(self, since: int, to: int) -> bool:
        return since == to or self._made_from <= since <= to <= self._made_to

    def take_stem(self) -> str:
        if self.generation is not None:
            # A file that is durable is of a generation that is.
            self.generation.sync()
        while (stem := self._intents.take()) is None:
            with self.write():
                pass
        return stem

    def stems_gone(self, stems: Iterable[str]) -> None:
        self._intents.gone(stems)

    def mark(self) -> Mark:
        """Which store this is the index of, and how many changes it has seen."""
        with self.read() as connection:
            return Mark(*connection.execute(sa.select(tables.store.c.store_id, tables.store.c.changes)).one())

    def leave_room(self, num_bytes: int) -> None:
        """Nothing: a database of its own keeps no files beside the segments."""

    def check_writable(self) -> None:
        with self._write_lock, as_storage_error(), self._engine.connect() as connection:
            connection = self._to_write(connection)
            with connection.begin():
                connection.execute(sa.select(tables.buffers.c.id).limit(1)).all()

    def shrink(self) -> None:
        """Nothing: a database sees to that by itself."""

    def settle(self) -> None:
        if self.generation is not None:
            try:
                self.generation.sync()
            except OSError:
                logger.exception("cannot sync the file that says how many changes the index has seen")

    def close(self) -> None:
        self._engine.dispose()
        if self.generation is not None:
            self.generation.close()
            self.generation = None


@contextmanager
def as_storage_error() -> Iterator[None]:
    """Raises:
    StorageError: for whatever SQLAlchemy raises inside.
    """
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
        raise StorageError(f"the index cannot be used: {reason}") from error
