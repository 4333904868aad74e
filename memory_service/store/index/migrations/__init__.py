"""The index's schema through time, with Alembic.

``versions/`` holds one file a change, numbered; each brings the schema, and what is stored, to the next number.
A new store gets the newest schema at once; a test compares that with what all the changes one after another make.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from memory_format import StorageError

HEAD = "0020"
"""The newest schema; a test holds it to the newest file."""

_VERSIONS = sa.MetaData()
alembic_version = sa.Table(
    "alembic_version",
    _VERSIONS,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Just as Alembic makes it."""


def bring_up_to_date(engine: sa.Engine, metadata: sa.MetaData, store: Path, found: str | None) -> None:
    """Make the schema, or run the changes that are missing, all of it in one transaction.

    Args:
        metadata: the newest schema.
        store: the store's directory, for changes that must look into segment files.
        found: the present schema, as :func:`current` gives it.

    Raises:
        StorageError: a newer version of the service made the index, or a change failed: then nothing has changed.
    """
    if found == HEAD:
        return
    if found is None:
        with engine.connect() as connection:
            connection = connection.execution_options(exemplar_memory_writes=True)
            with connection.begin():
                create(connection, metadata)
                row = {"id": 1, "store_id": uuid.uuid4().hex, "changes": 0}
                connection.execute(metadata.tables["store"].insert(), row)
        return
    expect_known(found)
    # Rarely needed, and slow to import.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.connect() as connection, _around_changes(connection) as prepared, prepared.begin():
        config.attributes.update(connection=prepared, store=store)
        try:
            if not sa.inspect(prepared).has_table("alembic_version"):
                command.stamp(config, found)
            command.upgrade(config, "head")
        except (ValueError, OSError) as error:
            raise StorageError(f"the store cannot be brought from schema {found} to {HEAD}: {error}") from error


def create(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Make the newest schema, its tables empty."""
    metadata.create_all(connection)
    _VERSIONS.create_all(connection)
    connection.execute(alembic_version.insert(), {"version_num": HEAD})


@contextmanager
def _around_changes(connection: sa.Connection) -> Iterator[sa.Connection]:
    """What a database needs before and after the schema's changes."""
    if connection.dialect.name != "sqlite":
        yield connection
        return
    connection = connection.execution_options(exemplar_memory_writes=True)
    # Tables that others refer to are made anew.
    execute(connection, "PRAGMA foreign_keys=OFF")
    try:
        yield connection
    finally:
        execute(connection, "PRAGMA foreign_keys=ON")
    # What was stored by an older version takes less room now, and may be cut from now on. The size of pages changes
    # outside of WAL only.
    execute(connection, "PRAGMA journal_mode=DELETE")
    execute(connection, "PRAGMA page_size=1024")
    execute(connection, "PRAGMA auto_vacuum=INCREMENTAL")
    execute(connection, "VACUUM")
    execute(connection, "PRAGMA journal_mode=WAL")


def expect_up_to_date(engine: sa.Engine) -> None:
    """Raises ``StorageError``: the index has another schema than this version's."""
    expect_newest(current(engine))


def expect_known(found: str | None) -> None:
    """Raises ``StorageError``: a newer version of the service has made a schema."""
    known = {path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("0*.py")}
    if found is not None and found not in known:
        raise StorageError(
            f"the index has schema {found}, this program knows {HEAD}; "
            "a newer version of the service made it: use that one",
            found=found,
            known=HEAD,
        )


def expect_newest(found: str | None) -> None:
    """Raises ``StorageError``: a schema is none, or another than this version's."""
    expect_known(found)
    if found != HEAD:
        raise StorageError(
            f"the index has schema {found or 'none'}, this program knows {HEAD}; starting the service on the "
            "store brings an older one up to date"
        )


def current(engine: sa.Engine) -> str | None:
    """The number of the schema that there is, None where there are no tables."""
    with engine.connect() as connection, connection.begin():
        tables = sa.inspect(connection).get_table_names()
        if "alembic_version" in tables:
            found: str = connection.execute(sa.select(alembic_version.c.version_num)).scalar_one()
            return found
        if "meta" in tables:
            # Written by schema 1, before Alembic kept count.
            return f"{connection.execute(sa.text('SELECT schema_version FROM meta')).scalar_one():04d}"
        return None


def execute(connection: sa.Connection, statement: str) -> list[tuple[Any, ...]]:
    """Outside of any transaction: past SQLAlchemy, which would begin one."""
    driver = connection.connection.driver_connection
    assert driver is not None
    found: list[tuple[Any, ...]] = driver.execute(statement).fetchall()
    return found
