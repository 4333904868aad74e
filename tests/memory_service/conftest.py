"""A service over a fresh store, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from memory_service.app import create_app
from memory_service.settings import Settings


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[httpx.Client]:
    """The application over ``data``, with its lifespan."""
    app = create_app(Settings(data=data, **settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client  # type: ignore[misc]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def client(data: Path) -> Iterator[httpx.Client]:
    with running(data) as client:
        yield client
