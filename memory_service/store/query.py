"""Listing records: filters, sorting, and cursors that stay right while records are pushed.

A cursor names the last row given, not a number of rows, so what is pushed or evicted in between neither
repeats nor hides a row.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from memory_format import FormatError
from memory_service.store.index import records
from memory_service.store.sampler import EVERYTHING, Filter

Sort = Literal["exemplar_id", "-exemplar_id", "score", "-score", "rank", "-rank"]
SORTS: tuple[Sort, ...] = get_args(Sort)

MAX_LIMIT = 1000


@dataclass(frozen=True)
class Query:
    """Which records, in which order, and from where on."""

    where: Filter = EVERYTHING
    min_score: float | None = None
    max_score: float | None = None
    sort: Sort = "exemplar_id"
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True)
class Page:
    """Rows of the index, and the cursor of the page after them, None at the end."""

    rows: Sequence[sa.Row[Any]]
    next_cursor: str | None


def run(connection: sa.Connection, buffer_id: int, query: Query, *, max_bytes: int | None = None) -> Page:
    """One page.

    Args:
        max_bytes: end the page before its charges exceed this; it holds one record at least.

    Raises:
        FormatError: ``invalid_cursor``.
    """
    c = records.c
    statement = sa.select(records).where(c.buffer_id == buffer_id)
    for column, wanted in (
        (c.class_id, query.where.class_id),
        (c.phase, query.where.phase),
        (c.learner_id, query.where.learner_id),
    ):
        if wanted is not None:
            statement = statement.where(column.in_(wanted))
    if query.min_score is not None:
        statement = statement.where(c.score >= query.min_score)
    if query.max_score is not None:
        statement = statement.where(c.score <= query.max_score)
    sorted_by = c[query.sort.removeprefix("-")]
    descending = query.sort.startswith("-")
    if query.cursor is not None:
        value, exemplar_id = _read_cursor(query, query.cursor)
        beyond = sorted_by < value if descending else sorted_by > value
        if sorted_by is not c.exemplar_id:
            beyond = beyond | ((sorted_by == value) & (c.exemplar_id > exemplar_id))
        statement = statement.where(beyond)
    order = [sorted_by.desc() if descending else sorted_by.asc()]
    if sorted_by is not c.exemplar_id:
        order.append(c.exemplar_id.asc())
    found = connection.execute(statement.order_by(*order).limit(query.limit + 1)).all()
    count = _fitting([row.charge for row in found[: query.limit]], max_bytes)
    page = found[:count]
    return Page(page, _make_cursor(query, page[-1]) if count < len(found) else None)


def _fitting(charges: Sequence[int], max_bytes: int | None) -> int:
    total = 0
    for count, charge in enumerate(charges):
        total += charge
        if max_bytes is not None and total > max_bytes and count:
            return count
    return len(charges)


def _fingerprint(query: Query) -> str:
    """What a cursor belongs to: the same filters and sorting; the page size may change."""
    parts = [astuple(query.where), query.min_score, query.max_score, query.sort]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


def _make_cursor(query: Query, last: sa.Row[Any]) -> str:
    value = last._mapping[query.sort.removeprefix("-")]
    document = json.dumps([_fingerprint(query), value, last.exemplar_id], separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def _read_cursor(query: Query, cursor: str) -> tuple[float | int, int]:
    try:
        document = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        fingerprint, value, exemplar_id = json.loads(document)
    except (ValueError, TypeError, RecursionError):
        raise FormatError("the cursor is not one that this service gave", code="invalid_cursor") from None
    numbers = isinstance(value, int | float) and isinstance(exemplar_id, int)
    # Written so that NaN fails too; SQLite takes no integers beyond 63 bits.
    if not (numbers and 0 <= exemplar_id < 2**63 and abs(value) < 2**63):
        raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
    if fingerprint != _fingerprint(query):
        raise FormatError(
            "the cursor belongs to another query; repeat the filters and the sort of its first page",
            code="invalid_cursor",
        )
    return value, exemplar_id
