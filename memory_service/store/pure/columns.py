"""The records of a buffer in memory, as columns: what sampling and reading need without asking SQL.

About 52 bytes a record (78 with the room to grow); payloads never live here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import HEADER_BYTES
from memory_format.header import HEADER_DTYPE
from memory_format.wire import Batch

Arrays = Mapping[str, NDArray[Any]]

COLUMN_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "exemplar_id": np.dtype(np.uint64),
    "class_id": np.dtype(np.uint32),
    "rank": np.dtype(np.uint32),
    "score": np.dtype(np.float32),
    "crc32": np.dtype(np.uint32),
    "segment": np.dtype(np.uint32),
    "offset": np.dtype(np.uint32),
    "length": np.dtype(np.uint32),
    "learner": np.dtype(np.uint32),
    "phase": np.dtype(np.uint16),
    "text_length": np.dtype(np.uint16),
    "grid_h": np.dtype(np.uint8),
    "grid_w": np.dtype(np.uint8),
    "patch_px": np.dtype(np.uint8),
    "codec": np.dtype(np.uint8),
    "flags": np.dtype(np.uint8),
}
"""``segment`` is the index's id of it, ``offset`` the body's place in its file, ``learner`` a
:class:`Learners` code."""

_FIXED: Final = (
    "crc32",
    "length",
    "learner",
    "phase",
    "text_length",
    "grid_h",
    "grid_w",
    "patch_px",
    "codec",
    "flags",
)
"""What stays as it was stored, and is asked for when a record is read. A row of these lies in one piece: a draw from a
million records would otherwise wait for memory ten times a record."""
_FIXED_DTYPE: Final = np.dtype([(name, COLUMN_DTYPES[name]) for name in _FIXED], align=True)
_ROWS: Final = "fixed"


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
    """Columns with room to grow, those of ``_FIXED`` as one of rows; only the first ``num_records`` count."""

    @classmethod
    def empty(cls, version: int) -> Columns:
        return cls.of_rows(version, empty_rows())

    def __getitem__(self, name: str) -> NDArray[Any]:
        return _column(self.backing, name)[: self.num_records]

    @property
    def charge(self) -> NDArray[np.int64]:
        return charge_of(self["length"])

    def take(self, positions: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Rows at those positions, copied."""
        taken = {name: values.take(positions) for name, values in self.backing.items()}
        return {name: _column(taken, name) for name in COLUMN_DTYPES}

    def position_of(self, exemplar_id: int) -> int | None:
        """Where a record is, None where it is not."""
        # As uint64: a plain int makes numpy compare through float64, which confuses ids over 2**53.
        position = int(self.positions_of(np.array([exemplar_id], dtype=np.uint64))[0])
        return None if position < 0 else position

    def appended(self, version: int, rows: Arrays) -> Columns:
        """With more rows, whose ids are all above the present ones."""
        count = len(rows["exemplar_id"])
        needed = self.num_records + count
        backing = self.backing
        if needed > len(backing["exemplar_id"]):
            capacity = max(needed, needed * 3 // 2, 64)
            backing = {name: _grown(values[: self.num_records], capacity) for name, values in backing.items()}
        for name, values in rows.items():
            _column(backing, name)[self.num_records : needed] = values
        return Columns(version, needed, self.bytes_used + int(charge_of(rows["length"]).sum()), backing)

    @classmethod
    def of_rows(cls, version: int, rows: Arrays) -> Columns:
        """From rows in any order."""
        order = np.argsort(rows["exemplar_id"], kind="stable")
        backing = {name: rows[name][order] for name in COLUMN_DTYPES if name not in _FIXED}
        backing[_ROWS] = np.empty(len(order), _FIXED_DTYPE)
        for name in _FIXED:
            backing[_ROWS][name] = rows[name][order]
        return cls(version, len(order), int(charge_of(rows["length"]).sum()), backing)

    def kept(self, version: int, keep: NDArray[np.bool_]) -> Columns:
        """With only the rows where ``keep``, ``(num_records,)``, is true."""
        places = np.flatnonzero(keep)
        backing = {name: values.take(places) for name, values in self.backing.items()}
        return Columns(version, len(places), int(charge_of(_column(backing, "length")).sum()), backing)

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


def rows_of_headers(headers: NDArray[np.void], learner: NDArray[Any], length: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Headers -> columns, ``segment`` 0.

    Args:
        headers: ``(N,)`` with the fields of ``HEADER_DTYPE``.
        learner: :class:`Learners` codes, ``(N,)``.
        length: of the bodies, ``(N,)``.
    """
    rows = {name: np.zeros(len(headers), dtype) for name, dtype in COLUMN_DTYPES.items()}
    for name in HEADER_DTYPE.names or ():
        rows[name][:] = headers[name]
    rows["learner"][:] = learner
    rows["length"][:] = length
    return rows


def rows_of_batch(batch: Batch, learners: Learners) -> dict[str, NDArray[Any]]:
    """Columns of records that are not stored yet: ids, segments and offsets are 0."""
    learner = np.array([learners.code(learner_id) for learner_id in batch.learner_ids], dtype=np.uint32)
    length = np.fromiter((len(body) for body in batch.bodies), dtype=np.uint32, count=len(batch.bodies))
    return rows_of_headers(batch.headers, learner, length)


def empty_rows() -> dict[str, NDArray[Any]]:
    return {name: np.zeros(0, dtype) for name, dtype in COLUMN_DTYPES.items()}


def concatenated(parts: list[Arrays]) -> dict[str, NDArray[Any]]:
    """Rows of several, one after another."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([empty_rows()[name], *(part[name] for part in parts)]) for name in COLUMN_DTYPES}


def headers_of_rows(rows: Arrays) -> NDArray[np.void]:
    """Columns -> ``(N,)`` of ``HEADER_DTYPE``, all but ``learner`` and ``offset``, which are a segment's
    affair."""
    headers = np.zeros(len(rows["exemplar_id"]), dtype=HEADER_DTYPE)
    for name in HEADER_DTYPE.names or ():
        if name not in ("learner", "offset"):
            headers[name] = rows[name]
    return headers


def _grown(values: NDArray[Any], capacity: int) -> NDArray[Any]:
    out = np.empty(capacity, dtype=values.dtype)
    out[: len(values)] = values
    return out
