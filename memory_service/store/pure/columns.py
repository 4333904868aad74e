"""The records of a buffer in memory, as columns: what sampling and reading need without asking SQL.

About 52 bytes a record (78 with the room to grow); payloads never live here.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memory_format import HEADER_BYTES
from memory_format.header import HEADER_DTYPE
from memory_format.wire import Batch
from memory_service.store.pure.revised import NOTHING_REVISED, Revised, among, shown_ids

Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.void]
"""``(N,)`` of :data:`ROW_DTYPE`."""


def _part(fields: Mapping[str, tuple[str, int]], first: int, num_bytes: int) -> np.dtype[np.void]:
    """A row of fields, each a type and its place, from the byte ``first`` on."""
    formats, places = [kind for kind, _ in fields.values()], [place - first for _, place in fields.values()]
    return np.dtype({"names": list(fields), "formats": formats, "offsets": places, "itemsize": num_bytes})


_FIELDS: Final = {
    name: (kind.str, place) for name, (kind, place, *_) in (HEADER_DTYPE.fields or {}).items() if name != "learner"
} | {"length": ("<u4", 40), "learner": ("<u4", 44), "segment": ("<u4", 48)}

ROW_DTYPE: Final = _part(_FIELDS, 0, 52)
"""A record as a row: its header, and behind it where it is. ``segment`` is the index's id of it, ``offset`` the body's
place in its file, ``learner`` a :class:`Learners` code."""

_FIXED_AT, _FIXED_END = _FIELDS["crc32"][1], _FIELDS["segment"][1]
_FIXED_DTYPE: Final = _part(
    {name: part for name, part in _FIELDS.items() if _FIXED_AT <= part[1] < _FIXED_END},
    _FIXED_AT,
    _FIXED_END - _FIXED_AT,
)
"""What stays as it was stored, and is asked for when a record is read. It lies in one piece: a draw from a million
records would otherwise wait for memory ten times a record."""
_FIXED: Final = frozenset(_FIXED_DTYPE.names or ())
_SEARCHED: Final = tuple(name for name in _FIELDS if name not in _FIXED)
_ROWS: Final = "fixed"
_IN_CACHE: Final = 8192
"""Rows, of 52 bytes."""


class Learners:
    """Learner ids as small numbers. Only ever grows: a code keeps its meaning while the buffer is open."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._codes: dict[str, int] = {}
        self._lock = threading.Lock()

    def code(self, learner_id: str) -> int:
        """The code of an id, a new one where it has none."""
        code = self._codes.get(learner_id)
        if code is None:
            with self._lock:
                code = self._codes.get(learner_id, len(self.ids))
                if code == len(self.ids):
                    self.ids.append(learner_id)
                    self._codes[learner_id] = code
        return code

    def known_codes(self, learner_ids: Iterable[str]) -> list[int]:
        """Codes of those ids that have one."""
        return [self._codes[learner_id] for learner_id in learner_ids if learner_id in self._codes]


@dataclass(frozen=True)
class Columns:
    """Records at one version, in ascending order of ``exemplar_id``. Immutable to its readers.

    :meth:`appended` writes behind the rows that older instances show, into room they share. So only the
    newest instance may be appended to, by one thread at a time: the buffer's lock sees to that.
    """

    version: int
    num_records: int
    bytes_used: int
    """Sum of :attr:`charge`."""
    backing: Arrays
    """Columns with room to grow, and one of ``_FIXED_DTYPE``; only the first ``num_records`` count."""
    revised: Revised = field(default_factory=lambda: NOTHING_REVISED)
    """What is known of those, and maybe of others, that replaced another."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        return _column(self.backing, name)[: self.num_records]

    @property
    def charge(self) -> NDArray[np.int64]:
        return charge_of(self["length"])

    # By which ids they are known

    @property
    def shown(self) -> Columns:
        """The same records under the ids by which they are known, and in the order of those: what readers are given.
        These very columns where nothing was replaced."""
        return self._shown[0]

    @property
    def is_shown_ready(self) -> bool:
        """Whether :attr:`shown` takes no pass over all records."""
        return not len(self.revised) or "_shown" in vars(self)

    def stored_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in :attr:`shown` -> those here, ascending."""
        order = self._shown[1]
        return positions if order is None else np.sort(order[positions])

    def stored_places(self, shown_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where records are that are known by these ids, ``(N,)``; -1 where they are not."""
        positions, order = self.shown.positions_of(shown_ids), self._shown[1]
        return positions if order is None else np.where(positions >= 0, order[positions], -1)

    @property
    def shown_ids(self) -> NDArray[np.uint64]:
        """The ids by which they are known, ``(num_records,)``, in the order in which they were stored."""
        return shown_ids(self.revised, self["exemplar_id"])

    def revisions(self, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """How often arrays of records were replaced, ``(M,)``, by their ids here."""
        numbers = np.zeros(len(ids), np.uint64)
        found, said = among(self.revised, ids)
        numbers[found] = said["revision"]
        return numbers

    @cached_property
    def _shown(self) -> tuple[Columns, NDArray[np.int64] | None]:
        found, said = among(self.revised, self["exemplar_id"])
        if not len(found):
            return self, None
        ids = self["exemplar_id"].copy()
        ids[found] = said["exemplar_id"]
        order = np.argsort(ids, kind="stable")
        backing = {name: values.take(order) for name, values in self.backing.items()}
        backing["exemplar_id"] = ids[order]
        known = said.copy()
        known["stored_id"] = said["exemplar_id"]
        known.sort(order="stored_id")
        return replace(self, backing=backing, revised=known), order

    # Rows

    def take(self, positions: NDArray[Any]) -> Rows:
        """Rows at those positions, copied."""
        rows = np.zeros(len(positions), ROW_DTYPE)
        for name in _SEARCHED:
            rows[name] = self.backing[name].take(positions)
        _fixed(rows)[:] = self.backing[_ROWS].take(positions)
        return rows

    def appended(self, version: int, rows: Rows) -> Columns:
        """With more rows, whose ids are all above the present ones."""
        needed = self.num_records + len(rows)
        backing = self.backing
        if needed > len(backing["exemplar_id"]):
            capacity = max(needed, needed * 3 // 2, 64)
            backing = {name: np.empty(capacity, values.dtype) for name, values in self.backing.items()}
            for name, values in self.backing.items():
                backing[name][: self.num_records] = values[: self.num_records]
        for name in _SEARCHED:
            backing[name][self.num_records : needed] = rows[name]
        backing[_ROWS][self.num_records : needed] = _fixed(rows)
        used = self.bytes_used + int(charge_of(rows["length"]).sum())
        return Columns(version, needed, used, backing, self.revised)

    @classmethod
    def of_rows(cls, version: int, *parts: Rows, revised: Revised = NOTHING_REVISED) -> Columns:
        """From rows in any order, in one piece or several."""
        ids = [part["exemplar_id"] for part in parts]
        ends = [end for part in ids if len(part) for end in (part[0], part[-1])]
        if any(map(operator.ge, ends[1:-1:2], ends[2::2])) or any((part[1:] <= part[:-1]).any() for part in ids):
            rows = concatenated(parts)
            parts = (rows.take(np.argsort(rows["exemplar_id"], kind="stable")),)
        count = sum(map(len, parts))
        backing = {name: np.empty(count, ROW_DTYPE[name]) for name in _SEARCHED}
        backing[_ROWS] = np.empty(count, _FIXED_DTYPE)
        at = 0
        for part in parts:
            # A few at a time: the rows stay in the processor's cache until each of their fields is taken.
            for first in range(0, len(part), _IN_CACHE):
                rows = part[first : first + _IN_CACHE]
                for name in _SEARCHED:
                    backing[name][at : at + len(rows)] = rows[name]
                backing[_ROWS][at : at + len(rows)] = _fixed(rows)
                at += len(rows)
        return cls(version, count, int(charge_of(_column(backing, "length")).sum()), backing, revised)

    def kept(self, version: int, keep: NDArray[np.bool_]) -> Columns:
        """With only the rows where ``keep``, ``(num_records,)``, is true."""
        places = np.flatnonzero(keep)
        backing = {name: values.take(places) for name, values in self.backing.items()}
        return Columns(version, len(places), int(charge_of(_column(backing, "length")).sum()), backing, self.revised)

    def moved(self, positions: NDArray[Any], segment: NDArray[Any], offset: NDArray[Any]) -> Columns:
        """With rows whose bytes lie elsewhere now; the version stays, as what they say has not changed."""
        return self._changed(positions, {"segment": segment, "offset": offset})

    def rescored(self, version: int, positions: NDArray[Any], score: NDArray[Any], rank: NDArray[Any]) -> Columns:
        """With other scores and ranks at those positions."""
        return replace(self._changed(positions, {"score": score, "rank": rank}), version=version)

    def set_scores(self, changed: Arrays) -> None:
        """Other scores and ranks in place: only where nobody else has these columns yet.

        Args:
            changed: ``exemplar_id``, ``score`` and ``rank``; ids that are not here do not count.
        """
        if changed:
            positions = self.positions_of(changed["exemplar_id"])
            found = positions >= 0
            for name in ("score", "rank"):
                self.backing[name][positions[found]] = changed[name][found]

    def _changed(self, positions: NDArray[Any], values: Arrays) -> Columns:
        backing = dict(self.backing)
        for name, new in values.items():
            backing[name] = backing[name].copy()
            backing[name][positions] = new
        return replace(self, backing=backing)

    def positions_of(self, exemplar_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where records are, ``(N,)``; -1 where they are not."""
        ids = self["exemplar_id"]
        if not len(ids):
            return np.full(len(exemplar_ids), -1, dtype=np.int64)
        positions = np.minimum(np.searchsorted(ids, exemplar_ids), len(ids) - 1)
        return np.where(ids[positions] == exemplar_ids, positions, -1)


def _column(backing: Arrays, name: str) -> NDArray[Any]:
    return backing[_ROWS][name] if name in _FIXED else backing[name]


def charge_of(length: NDArray[Any]) -> NDArray[np.int64]:
    """Body lengths -> charges."""
    return length.astype(np.int64) + HEADER_BYTES


def bytes_by_learner(codes: NDArray[np.uint32], charge: NDArray[np.integer], learner_ids: list[str]) -> dict[str, int]:
    """Sums of charges, ``(N,)``, by learner, but for those that are 0.

    Args:
        codes: places of the learners' ids in ``learner_ids``, ``(N,)``.
    """
    # Exact: they are integers far below 2^53.
    sums = np.bincount(codes, weights=charge)
    found: dict[str, int] = {}
    for code in np.flatnonzero(sums).tolist():
        # A file that is imported may name one twice.
        found[learner_ids[code]] = found.get(learner_ids[code], 0) + int(sums[code])
    return found


def rows_of_headers(headers: NDArray[np.void], learner: ArrayLike, length: ArrayLike) -> Rows:
    """Headers -> rows, ``segment`` 0. A score of -0.0, which SQLite cannot keep (findings/sqlite_minus_zero.sh), is
    0.0 there.

    Args:
        headers: ``(N,)`` of ``HEADER_DTYPE``.
        learner: :class:`Learners` codes, ``(N,)``.
        length: of the bodies, ``(N,)``.
    """
    rows = np.zeros(len(headers), ROW_DTYPE)
    headers_of_rows(rows)[:] = headers
    rows["score"] += 0
    rows["learner"] = learner
    rows["length"] = length
    return rows


def rows_of_batch(batch: Batch, learners: Learners) -> Rows:
    """Records that are not stored yet as rows: ids, segments and offsets are 0."""
    codes = {learner_id: learners.code(learner_id) for learner_id in dict.fromkeys(batch.learner_ids)}
    return rows_of_headers(batch.headers, [codes[id_] for id_ in batch.learner_ids], list(map(len, batch.bodies)))


def concatenated(parts: Sequence[Rows]) -> Rows:
    """Rows of several, one after another."""
    # Without the dtype numpy 2.4.6 moves the fields together (findings/numpy_concatenate_offsets.sh).
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, ROW_DTYPE), *parts], dtype=ROW_DTYPE)


def numbered(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct ones of some values, ascending, and which of them each is: :func:`numpy.unique` in half of its
    time, where there are hundreds."""
    ascending = np.sort(values)
    is_other = np.ones(len(values), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=is_other[1:])
    distinct = ascending[is_other]
    return distinct, distinct.searchsorted(values)


def headers_of_rows(rows: Rows) -> NDArray[np.void]:
    """The headers in rows, ``(N,)`` of ``HEADER_DTYPE``, as a view: but for ``learner`` and ``offset``, which mean
    something else in a segment."""
    return rows.getfield(HEADER_DTYPE)


def _fixed(rows: Rows) -> NDArray[np.void]:
    return rows.getfield(_FIXED_DTYPE, _FIXED_AT)
