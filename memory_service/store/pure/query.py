"""Listing records: filters, sorting, and cursors that stay right while records are pushed.

A cursor names the last row given, not a number of rows, so what is pushed or evicted in between neither
repeats nor hides a row.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError
from memory_format.api.terms import Sort
from memory_service.store.pure.columns import Columns, Learners, charge_of
from memory_service.store.pure.field_index import NO_FIELDS, FieldIndex
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.selection import EVERYTHING, Filter, matching

_BLOCK: Final = 1 << 16
"""Records that are looked at at a time: of a million of them a page needs little more than one look at each."""


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
    columns: Columns,
    query: Query,
    learners: Learners,
    fields: FieldIndex = NO_FIELDS,
    *,
    max_bytes: int | None = None,
) -> tuple[NDArray[np.int64], str | None]:
    """One page: positions in the columns, and the cursor of the page after them, None at the end.

    Args:
        learners, fields: as :func:`memory_service.store.pure.selection.select` takes them.
        max_bytes: end the page before its charges exceed this; it holds one record at least.

    Raises:
        FormatError: ``invalid_cursor``.
    """
    found = _first(columns, query, learners, fields, query.limit + 1)
    count = _fitting(charge_of(columns["length"][found[: query.limit]]).tolist(), max_bytes)
    page = found[:count]
    if count == len(found):
        return page, None
    last = page[-1]
    parts = [_fingerprint(query), columns[query.sort.removeprefix("-")][last].item(), int(columns["exemplar_id"][last])]
    document = json.dumps(parts, separators=(",", ":")).encode()
    return page, base64.urlsafe_b64encode(document).decode().rstrip("=")


def _first(columns: Columns, query: Query, learners: Learners, fields: FieldIndex, wanted: int) -> NDArray[np.int64]:
    """The positions of the first so many records behind the cursor, in the order asked for."""
    name, sign = query.sort.removeprefix("-"), -1 if query.sort.startswith("-") else 1
    by_id = name == "exemplar_id"
    # As Python's own numbers are: exact, signed, and comparable with a cursor's.
    exact: type[Any] = np.float64 if name == "score" else np.int64
    after = None if query.cursor is None else _read_cursor(query, query.cursor)
    found, order = np.zeros(0, np.int64), np.zeros(0, exact)
    starts = range(0, columns.num_records, _BLOCK)
    for start in reversed(starts) if by_id and sign < 0 else starts:
        part = slice(start, start + _BLOCK)
        values = columns[name][part].astype(exact) * sign
        fits = _matching(columns, query, learners, fields, part)
        if after is not None:
            value, exemplar_id = sign * after[0], after[1]
            fits &= (values > value) | ((values == value) & (columns["exemplar_id"][part] > np.uint64(exemplar_id)))
        if len(found) == wanted:
            # Of equal values those before come first: their ids are lower.
            fits &= values < order[-1]
        new = np.flatnonzero(fits)
        if len(new):
            found, order = np.concatenate([found, start + new]), np.concatenate([order, values[new]])
            first = _smallest(order, wanted)
            found, order = found[first], order[first]
        if by_id and len(found) == wanted:
            break
    return found


def _smallest(order: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Places of the smallest so many, ascending, equals in the order given."""
    places = np.arange(len(order))
    if len(order) > 4 * count:
        places = np.flatnonzero(order <= np.partition(order, count - 1)[count - 1])
    return places[np.argsort(order[places], kind="stable")[:count]]


def _matching(columns: Columns, query: Query, learners: Learners, fields: FieldIndex, part: slice) -> NDArray[np.bool_]:
    """Which records of a part a query is about."""
    found = matching(columns, query.where, learners, fields, part)
    if query.min_score is not None:
        found &= columns["score"][part] >= np.float64(query.min_score)
    if query.max_score is not None:
        found &= columns["score"][part] <= np.float64(query.max_score)
    return found


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


def page_of_snapshots(
    snapshots: Sequence[Snapshot], limit: int, cursor: str | None
) -> tuple[list[Snapshot], str | None]:
    """The oldest of some, which are in their order, or those after a cursor, and the cursor of the next page, None at
    the end. Raises ``FormatError`` (``invalid_cursor``)."""
    if cursor is not None and not re.fullmatch("[0-9]{1,19}", cursor):
        raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
    after = 0 if cursor is None else int(cursor)
    found = [snapshot for snapshot in snapshots if snapshot.number > after]
    return found[:limit], str(found[limit - 1].number) if len(found) > limit else None
