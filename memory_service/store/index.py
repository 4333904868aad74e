"""The index: what is where, in SQL through SQLAlchemy Core. SQLite now; nothing here but :func:`_configure`
is SQLite's.

The database itself refuses what must never be: a CHECK holds ``bytes_used`` within the budget, and a foreign
    key keeps
a segment's row while one of its records lives.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from memory_format import HEADER_BYTES, StorageError

SCHEMA_VERSION = 1

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

meta = sa.Table("meta", metadata, sa.Column("schema_version", sa.Integer, nullable=False))

buffers = sa.Table(
    "buffers",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("budget_bytes", sa.BigInteger, nullable=False),
    sa.Column("eviction", sa.String(32), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("bytes_used", sa.BigInteger, nullable=False),
    sa.Column("num_records", sa.BigInteger, nullable=False),
    sa.Column("next_exemplar_id", sa.BigInteger, nullable=False),
    sa.CheckConstraint("bytes_used >= 0 AND bytes_used <= budget_bytes", name="within_budget"),
    sa.CheckConstraint("num_records >= 0", name="records_counted"),
    # Ids are never given twice: what an old process remembers of a deleted buffer cannot be taken for a new
    # one.
    sqlite_autoincrement=True,
)

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), nullable=False, index=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("file_bytes", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

records = sa.Table(
    "records",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
    # Indexed for the foreign key: without it, dropping a segment's row scans every record.
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), nullable=False, index=True),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("crc32", sa.BigInteger, nullable=False),
    sa.Column("class_id", sa.BigInteger, nullable=False),
    sa.Column("phase", sa.Integer, nullable=False),
    sa.Column("learner_id", sa.String(64), nullable=False),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("rank", sa.BigInteger, nullable=False),
    sa.Column("grid_h", sa.Integer, nullable=False),
    sa.Column("grid_w", sa.Integer, nullable=False),
    sa.Column("patch_px", sa.Integer, nullable=False),
    sa.Column("codec", sa.Integer, nullable=False),
    sa.Column("flags", sa.Integer, nullable=False),
    sa.Column("text_length", sa.Integer, nullable=False),
    sa.Column("num_patches", sa.Integer, nullable=False),
    sa.Column("num_tokens", sa.Integer, nullable=False),
    sa.Column("charge", sa.BigInteger, nullable=False),
    sa.CheckConstraint(f"charge = length + {HEADER_BYTES}", name="charge_is_exact"),
    sa.Index("ix_records_class", "buffer_id", "class_id", "exemplar_id"),
    sa.Index("ix_records_phase", "buffer_id", "phase", "exemplar_id"),
    sa.Index("ix_records_learner", "buffer_id", "learner_id", "exemplar_id"),
    sqlite_with_rowid=False,
)

pushes = sa.Table(
    "pushes",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("idempotency_key", sa.String(128), primary_key=True),
    sa.Column("body_digest", sa.String(64), nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
)


class Index:
    """The database of one store: short read and write transactions.

    Raises:
        StorageError: ``storage_failed`` where the database cannot be opened, is damaged, or was made by a
            newer version.
    """

    def __init__(self, path: Path) -> None:
        self._write_lock = threading.Lock()
        self._engine = sa.create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=56)
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise

    def _prepare(self) -> None:
        with self.write() as connection:
            if not sa.inspect(connection).has_table("meta"):
                metadata.create_all(connection)
                connection.execute(meta.insert(), {"schema_version": SCHEMA_VERSION})
            found = connection.execute(sa.select(meta.c.schema_version)).scalar_one()
        if found != SCHEMA_VERSION:
            raise StorageError(
                f"the index has schema version {found}, this program knows {SCHEMA_VERSION}; "
                "a newer version of the service made it: use that one",
                found=found,
                known=SCHEMA_VERSION,
            )

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the index throughout."""
        with _as_storage_error(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is durable when this returns, and undone when the block raises."""
        # SQLite takes one writer at a time; waiting here is fair, waiting in its busy handler is not.
        with _as_storage_error(), self._write_lock, self._engine.connect() as connection:
            connection = connection.execution_options(exemplar_memory_writes=True)
            with connection.begin():
                yield connection

    def check_writable(self) -> None:
        """Take the write lock and give it back.

        Raises:
            StorageError: the database cannot be written.
        """
        with self.write() as connection:
            connection.execute(sa.select(meta.c.schema_version)).scalar_one()

    def close(self) -> None:
        self._engine.dispose()


def _configure(connection: Any, _record: Any) -> None:
    # Transactions are begun by _begin, not by the driver's guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("busy_timeout=3000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("exemplar_memory_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _as_storage_error() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
        raise StorageError(f"the index cannot be used: {reason}") from error
