"""All changes of the schema one after another make what a new store gets at once."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from memory_format import StorageError
from memory_service.store import Store
from memory_service.store.index import migrations, tables


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return made


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """A database made by running every change on nothing."""
    path = tmp_path / "migrated.sqlite"
    (tmp_path / "segments").mkdir()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        options = config()
        options.attributes.update(connection=connection, store=tmp_path)
        command.upgrade(options, "head")
    engine.dispose()
    return path


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    Store(tmp_path / "store").close()
    return tmp_path / "store" / "index.sqlite"


def schema(path: Path) -> dict[tuple[str, str], str]:
    """Type and name of everything in a database -> the SQL that made it, spelled one way."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return {(kind, name): normalised(sql) for kind, name, sql in found}


def normalised(sql: str) -> str:
    """Quotes, space and the order of a table's parts say nothing; Alembic appends columns that are added."""
    flat = re.sub(r"\s+", " ", sql.replace('"', "")).strip()
    head, _, rest = flat.partition("(")
    body, _, tail = rest.rpartition(")")
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", body)]
    return f"{head.strip()} ({', '.join(sorted(parts))}) {tail.strip()}".strip()


def test_all_changes_make_what_a_new_store_gets(migrated: Path, fresh: Path) -> None:
    assert schema(migrated) == schema(fresh)


def test_alembic_finds_no_difference_either(migrated: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{migrated}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_head_is_the_newest_file_and_files_follow_each_other() -> None:
    script = ScriptDirectory.from_config(config())
    assert script.get_heads() == [migrations.HEAD]
    revisions = [revision.revision for revision in script.walk_revisions()]
    assert sorted(revisions) == [f"{number:04d}" for number in range(1, len(revisions) + 1)]
    files = sorted(path.name for path in (Path(migrations.__file__).parent / "versions").glob("0*.py"))
    assert [name[:4] for name in files] == sorted(revisions)


def test_a_new_store_says_its_version(fresh: Path, migrated: Path) -> None:
    for path in (fresh, migrated):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(migrations.HEAD,)]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    """A segment that the old index speaks of is missing."""
    data = tmp_path / "store"
    (data / "segments").mkdir(parents=True)
    engine = sa.create_engine(f"sqlite:///{data / 'index.sqlite'}")
    with engine.begin() as connection:
        options = config()
        options.attributes.update(connection=connection, store=data)
        command.upgrade(options, "0001")
        connection.exec_driver_sql("DROP TABLE alembic_version")
        connection.exec_driver_sql("INSERT INTO meta VALUES (1)")
        connection.exec_driver_sql("INSERT INTO buffers VALUES (1, 'b', 100, 'reject', '', 0, 0, 0, 0, 1)")
        connection.exec_driver_sql("INSERT INTO segments VALUES (1, 1, 'gone.zarr.zip', 10)")
    engine.dispose()
    before = schema(data / "index.sqlite")
    with pytest.raises(StorageError, match="cannot be brought from schema 0001"):
        Store(data)
    assert schema(data / "index.sqlite") == before
    with closing(sqlite3.connect(data / "index.sqlite")) as connection:
        assert connection.execute("SELECT name FROM segments").fetchall() == [("gone.zarr.zip",)]


def test_what_is_being_erased_is_erased_from_forks_that_an_earlier_version_made_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        options = config()
        options.attributes.update(connection=connection, store=tmp_path)
        command.upgrade(options, "0019")
        connection.exec_driver_sql("INSERT INTO origins VALUES (2, 1), (3, 1), (3, 2)")
        connection.exec_driver_sql("INSERT INTO erasures VALUES (1, 7, 8, 9), (2, 7, 8, 9)")
        command.upgrade(options, "head")
        assert connection.exec_driver_sql("SELECT * FROM erasures").fetchall() == [(of, 7, 8, 9) for of in (1, 2, 3)]
        # Nobody knows which exemplars those share.
        found = connection.exec_driver_sql("SELECT * FROM origins").fetchall()
        assert found == [(2, 1, None), (3, 1, None), (3, 2, None)]
    engine.dispose()
