"""A service over a fresh store, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from memory_service.http.app import create_app, open_store
from memory_service.settings import Settings
from tests.objects import MotoStore, NamedStore, ObjectStore
from tests.postgres import PostgresServer

URL = "http://127.0.0.1:8765"
"""The service does not answer to the test client's usual host."""


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
