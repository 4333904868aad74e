"""Time by the database's clock: one for all who use it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from memory_service.store.index import tables


class seconds_now(sa.sql.expression.FunctionElement[float]):  # noqa: N801
    """Seconds since 1970 by the database's clock."""

    type = sa.Double()
    inherit_cache = True


@compiles(seconds_now, "sqlite")
def _in_sqlite(_element: seconds_now, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400)"


@compiles(seconds_now, "postgresql")
def _in_postgresql(_element: seconds_now, _compiler: Any, **_: Any) -> str:
    return "CAST(extract(epoch FROM now()) AS double precision)"


def in_seconds(seconds: float | sa.BindParameter[float]) -> sa.ColumnElement[int]:
    """That time from now, by the database's clock, in whole seconds."""
    return sa.cast(seconds_now() + seconds, sa.BigInteger)


def is_over() -> sa.ColumnElement[bool]:
    """Which rows of ``intents`` nobody stands for any more."""
    until = tables.intents.c.upload_until
    return until.is_(None) | (until < seconds_now())
