"""An index in a database that SQLAlchemy knows: short read and write transactions, and names for segment files.

A name is in the index before anything is done to its file: it is about to be made, or about to go. So a file that no
segment's row speaks of can be told apart: named, it is what a crash has left; else it is something that the index does
not know, and nobody's to delete. Names are reserved a few ahead, in transactions that are committed anyway: no file
waits for one of its own.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from memory_format import StorageError
from memory_service.store.index import erased, quotas, tables
from memory_service.store.index.base import Index, Reading, Writing
from memory_service.store.index.generation import Generation, Mark
from memory_service.store.index.reading import unanswered

logger = logging.getLogger(__name__)

AHEAD: Final = 8
"""Names reserved, once there are fewer than half of them."""

_COUNT = tables.store.update().values(changes=tables.store.c.changes + 1).returning(tables.store.c.changes)


class SqlIndex(Index):
    """The database of one store, its tables made already.

    Args:
        to_read: for transactions that only read, where those are begun otherwise.
    """

    def __init__(self, engine: sa.Engine, to_read: sa.Engine | None = None) -> None:
        self._engine = engine
        self._to_read = to_read or engine
        self._write_lock = threading.Lock()
        self._names_lock = threading.Lock()
        self._ready: deque[str] = deque()
        """Names that the index knows and no file has ever had."""
        self._gone: set[str] = set()
        """Names whose files are gone, and whose rows can go with the next transaction."""
        self._made_from = self._made_to = -1
        """The last changes without anybody else's in between: behind the one number, up to and with the other."""
        self.generation: Generation | None = None
        """Told of every change, once it is set."""

    @contextmanager
    def reading(self, *, alone: bool = False) -> Iterator[Reading]:
        with as_storage_error(), self._to_read.connect() as connection, connection.begin():
            yield Reading(connection, shared=self.is_shared)

    @contextmanager
    def writing(self, *, counted: bool = True) -> Iterator[Writing]:
        # A database may take one writer at a time; waiting here is fair, in SQLite's busy handler not.
        with self._write_lock:
            with as_storage_error(), self._transaction() as connection:
                writing = self._begin(connection, counted=counted)
                yield writing
                new, gone = self._note_names(connection)
            with self._names_lock:
                self._ready.extend(new)
                self._gone -= gone
            self._note(writing)

    def _begin(self, connection: sa.Connection, *, counted: bool) -> Writing:
        """A transaction that was begun just now."""
        return Writing(connection, connection.execute(_COUNT).scalar_one() if counted else None)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One that writes, committed at the end of the block. Called with the lock."""
        with self._engine.connect() as connection:
            connection = self._to_write(connection)
            with connection.begin():
                yield connection

    def _to_write(self, connection: sa.Connection) -> sa.Connection:
        """A connection in which the next transaction writes."""
        return connection

    def _note(self, writing: Writing) -> None:
        """A transaction was committed. Called with the lock."""
        changes = writing.changed_to
        if changes is None:
            return
        if changes != self._made_to + 1:
            self._made_from = changes - 1
        self._made_to = changes
        if self.generation is not None:
            self.generation.note(changes)

    def _note_names(self, connection: sa.Connection) -> tuple[list[str], set[str]]:
        """Reserve names and forget those that are gone; returns both, which count once that is committed."""
        with self._names_lock:
            new = [uuid.uuid4().hex for _ in range(AHEAD - len(self._ready))] if len(self._ready) < AHEAD // 2 else []
            gone = set(self._gone)
        if new:
            statement = unanswered(tables.intents.insert())
            connection.execute(statement, [{"stem": stem, "leaving": False} for stem in new])
        self._forget_names(connection, gone)
        return new, gone

    def _forget_names(self, connection: sa.Connection, gone: set[str]) -> None:
        if gone:
            # One statement a name, prepared once: lists in SQL are bounded.
            this = unanswered(tables.intents.delete().where(tables.intents.c.stem == sa.bindparam("of")))
            connection.execute(this, [{"of": stem} for stem in gone])

    def made_here(self, since: int, to: int) -> bool:
        return since == to or self._made_from <= since <= to <= self._made_to

    def take_stem(self) -> str:
        if self.generation is not None:
            # A file that is durable is of a generation that is.
            self.generation.sync()
        while True:
            with self._names_lock:
                if self._ready:
                    return self._ready.popleft()
            with self.writing():
                pass

    def open_bodies(self, stem: str, known: int = 0) -> Sequence[bytes] | None:
        with self.reading(alone=True) as reading:
            return reading.open_bodies(stem, known)

    def begin_uploads(self, stems: Sequence[str], seconds: float) -> int:
        with self.writing() as transaction:
            transaction.begin_uploads(stems, seconds)
        assert transaction.changed_to is not None
        return transaction.changed_to

    def stems_gone(self, stems: Iterable[str]) -> None:
        with self._names_lock:
            self._gone.update(stems)

    def leaving(self) -> Sequence[str]:
        with self.reading(alone=True) as reading:
            return erased.leaving(reading)

    def uploading(self) -> Sequence[str]:
        with self.reading(alone=True) as reading:
            return erased.uploading(reading)

    def mark(self) -> Mark:
        with self.reading() as reading:
            found = sa.select(tables.store.c.store_id, tables.store.c.changes)
            return Mark(*reading.connection.execute(found).one())

    def leave_room(self, num_bytes: int) -> None:
        """Nothing: a database of its own keeps no files beside the segments."""

    def check_writable(self) -> None:
        with self._write_lock, as_storage_error(), self._transaction() as connection:
            connection.execute(sa.select(tables.store.c.id).with_for_update()).all()

    def shrink(self) -> None:
        """Nothing: a database sees to that by itself."""

    def scrub(self) -> None:
        """Nothing: a database of its own has no files here."""

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
    """``StorageError`` for whatever SQLAlchemy raises inside; but :class:`~quotas.RacedError` as it says."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
        if isinstance(error, sa.exc.IntegrityError) and quotas.WITHIN in reason:
            raise quotas.RacedError(
                "the records of a learner would come to more bytes than one may have in all buffers together: others "
                "were faster; ask again"
            ) from error
        raise StorageError(f"the index cannot be used: {reason}") from error
