"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory_service.testing import postgres
from memory_service.testing.postgres import PASSWORD

__all__ = ["PASSWORD", "PostgresServer", "need_postgres"]


def need_postgres() -> None:
    """The test is skipped where no server is installed, and fails in CI."""
    try:
        postgres._programs()
    except postgres.NoPostgresError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


class PostgresServer(postgres.PostgresServer):
    """Tests that need one are skipped where there is none, and fail in CI."""

    def __init__(self, network: Path | None = None) -> None:
        need_postgres()
        super().__init__(network=network)
