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

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError
from memory_format.api.terms import Sort
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.selection import EVERYTHING, Filter, select


@dataclass(frozen=True)
class Query:
    """Which records, in which order, and from where on."""

    where: Filter = EVERYTHING
    min_score: float | None = None
    max_score: float | None = None
    sort: Sort = "exemplar_id"
    limit: int = 100
    cursor: str | None = None


def run(
    columns: Columns, query: Query, learner_codes: list[int], *, max_bytes: int | None = None
) -> tuple[NDArray[np.int64], str | None]:
    """One page: positions in the columns, and the cursor of the page after them, None at the end.

    Args:
        learner_codes: stand for ``query.where.learner_id``.
        max_bytes: end the page before its charges exceed this; it holds one record at least.

    Raises:
        FormatError: ``invalid_cursor``.
    """
    name = query.sort.removeprefix("-")
    descending = query.sort.startswith("-")
    matches = matching(columns, query, learner_codes)
    # As Python's own numbers are: exact, signed, and comparable with a cursor's.
    values = columns[name].astype(np.float64 if name == "score" else np.int64)
    if query.cursor is not None:
        value, exemplar_id = _read_cursor(query, query.cursor)
        beyond = values < value if descending else values > value
        if name != "exemplar_id":
            beyond |= (values == value) & (columns["exemplar_id"] > np.uint64(exemplar_id))
        matches &= beyond
    found = np.flatnonzero(matches)
    order = -values[found] if descending else values[found]
    wanted = query.limit + 1
    if len(found) > 4 * wanted:
        # Only what can be among the first: everything up to the value of the last of them.
        last = np.partition(order, wanted - 1)[wanted - 1]
        found, order = found[order <= last], order[order <= last]
    # Positions ascend with the ids: equal values come in the order of their ids.
    found = found[np.argsort(order, kind="stable")[:wanted]]
    count = _fitting(columns.charge[found[: query.limit]].tolist(), max_bytes)
    page = found[:count]
    if count == len(found):
        return page, None
    last_value = values[page[-1]].item()
    parts = [_fingerprint(query), last_value, int(columns["exemplar_id"][page[-1]])]
    document = json.dumps(parts, separators=(",", ":")).encode()
    return page, base64.urlsafe_b64encode(document).decode().rstrip("=")


def matching(columns: Columns, query: Query, learner_codes: list[int]) -> NDArray[np.bool_]:
    """Which records a query is about, ``(N,)``."""
    matches = np.zeros(columns.num_records, dtype=bool)
    selection = select(columns, query.where, learner_codes)
    matches[selection.at(np.arange(selection.num))] = True
    if query.min_score is not None:
        matches &= columns["score"] >= np.float64(query.min_score)
    if query.max_score is not None:
        matches &= columns["score"] <= np.float64(query.max_score)
    return matches


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
