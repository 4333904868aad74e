"""A service over a fresh store, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memory_service.http.app import create_app, open_store
from memory_service.settings import Settings
from tests.objects import MotoStore, NamedStore, ObjectStore
from tests.postgres import PostgresServer

URL = "http://127.0.0.1:8765"
"""The service does not answer to the test client's usual host."""


@sa.event.listens_for(sa.Engine, "before_execute")
def no_key_is_lost(
    connection: sa.Connection, statement: Any, rows: list[dict[str, Any]], row: dict[str, Any], options: Any
) -> None:
    """SQLAlchemy 2.1.9 drops keys that are no columns, and those that the first row lacks, without a word
    (findings/sqlalchemy_insert_unknown_key.sh)."""
    if isinstance(statement, sa.Insert | sa.Update):
        given = [*rows, *([row] if row else [])]
        names = given[0].keys() if given else set()
        assert all(one.keys() <= names for one in given), f"not in the first row of {statement.table}: {given!r:.300}"
        if not names <= set(statement.table.c.keys()):
            lost = names - set(statement.table.c.keys()) - statement.compile(dialect=connection.dialect).params.keys()
            assert not lost, f"no columns of {statement.table}: {lost}"


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[httpx.Client]:
    """The application over ``data``, with its lifespan."""
    app = create_app(Settings(data=data, **settings))
    # Of httpx2 where that is installed, else of httpx (starlette 1.10): used for what both have alone.
    with TestClient(app, URL, raise_server_exceptions=False) as client:
        yield client  # type: ignore[misc]


@contextmanager
def crashing(data: Path, **settings: Any) -> Iterator[httpx.Client]:
    """As :func:`running`, but it ends as a crash does: nothing is sealed or put in order."""
    given = Settings(data=data, **settings)
    store = open_store(given)
    try:
        with TestClient(create_app(given, store), URL, raise_server_exceptions=False) as client:
            yield client  # type: ignore[misc]
    finally:
        store.release()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def client(data: Path) -> Iterator[httpx.Client]:
    with running(data) as client:
        yield client


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests that need one."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def object_store(pytestconfig: pytest.Config) -> Iterator[ObjectStore]:
    """The same of object stores."""
    named = pytestconfig.getoption("--object-store")
    store = NamedStore(named) if named else MotoStore()
    yield store
    store.remove()
