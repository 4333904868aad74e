"""The live records of a buffer in memory, as columns: what sampling and reading need without asking SQL.

About 53 bytes a record (80 with the room to grow); payloads never live here.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import HEADER_BYTES, Record
from memory_format.codecs import codec_class
from memory_format.record import HEADER_DTYPE

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
    "num_patches": np.dtype(np.uint16),
    "num_tokens": np.dtype(np.uint16),
    "grid_h": np.dtype(np.uint8),
    "grid_w": np.dtype(np.uint8),
    "patch_px": np.dtype(np.uint8),
    "codec": np.dtype(np.uint8),
    "flags": np.dtype(np.uint8),
}
"""``segment`` is the index's id of it, ``offset`` the body's place in its file, ``learner`` a
:class:`Learners` code."""


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
    """The live records at one version, in ascending order of ``exemplar_id``. Immutable to its readers.

    :meth:`appended` writes behind the rows that older instances show, into room they share. So only the
    newest instance may be appended to, by one thread at a time: the buffer's lock sees to that.
    """

    version: int
    num_records: int
    bytes_used: int
    """Sum of :attr:`charge`."""
    backing: Arrays
    """Columns with room to grow; only the first ``num_records`` rows count."""

    @classmethod
    def empty(cls, version: int) -> Columns:
        return cls(version, 0, 0, {name: np.empty(0, dtype) for name, dtype in COLUMN_DTYPES.items()})

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.backing[name][: self.num_records]

    @property
    def charge(self) -> NDArray[np.int64]:
        return charge_of(self["length"])

    def take(self, positions: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Rows at those positions, copied."""
        return {name: self.backing[name][positions] for name in COLUMN_DTYPES}

    def position_of(self, exemplar_id: int) -> int | None:
        """Where a record is, None where it is not."""
        ids = self["exemplar_id"]
        # As uint64: a plain int makes numpy compare through float64, which confuses ids over 2**53.
        position = int(np.searchsorted(ids, np.uint64(exemplar_id)))
        found = position < len(ids) and int(ids[position]) == exemplar_id
        return position if found else None

    def appended(self, version: int, rows: Arrays) -> Columns:
        """With more rows, whose ids are all above the present ones."""
        count = len(rows["exemplar_id"])
        needed = self.num_records + count
        backing = self.backing
        if needed > len(backing["exemplar_id"]):
            capacity = max(needed, needed * 3 // 2, 64)
            backing = {name: _grown(self[name], capacity) for name in COLUMN_DTYPES}
        for name, values in rows.items():
            backing[name][self.num_records : needed] = values
        return Columns(version, needed, self.bytes_used + int(charge_of(rows["length"]).sum()), backing)

    def kept(self, version: int, keep: NDArray[np.bool_]) -> Columns:
        """With only the rows where ``keep``, ``(num_records,)``, is true."""
        backing = {name: self[name][keep] for name in COLUMN_DTYPES}
        return Columns(version, len(backing["length"]), int(charge_of(backing["length"]).sum()), backing)

    def moved(self, positions: NDArray[Any], segment: NDArray[Any], offset: NDArray[Any]) -> Columns:
        """With rows whose bytes lie elsewhere now; the version stays, as what they say has not changed."""
        backing = dict(self.backing)
        for name, values in (("segment", segment), ("offset", offset)):
            backing[name] = backing[name].copy()
            backing[name][positions] = values
        return replace(self, backing=backing)


def charge_of(length: NDArray[Any]) -> NDArray[np.int64]:
    """Body lengths -> charges."""
    return length.astype(np.int64) + HEADER_BYTES


def rows_of_records(records: Sequence[Record], learners: Learners) -> tuple[dict[str, NDArray[Any]], list[bytes]]:
    """Columns and bodies of records that are not stored yet: ids, segments and offsets are 0."""
    bodies = [record.body for record in records]
    values: dict[str, list[Any]] = {
        "class_id": [r.class_id for r in records],
        "rank": [r.rank for r in records],
        "score": [r.score for r in records],
        "crc32": [zlib.crc32(body) for body in bodies],
        "length": [len(body) for body in bodies],
        "learner": [learners.code(r.learner_id) for r in records],
        "phase": [r.phase for r in records],
        "text_length": [r.text_length for r in records],
        "num_patches": [int.from_bytes(r.keep_mask_bytes, "big").bit_count() for r in records],
        "num_tokens": [len(r.token_ids_bytes) // 2 for r in records],
        "grid_h": [r.grid[0] for r in records],
        "grid_w": [r.grid[1] for r in records],
        "patch_px": [r.patch_px for r in records],
        "codec": [codec_class(r.codec_id).number for r in records],
        "flags": [r.flags for r in records],
    }
    rows = {
        name: np.array(values[name], dtype=dtype) if name in values else np.zeros(len(records), dtype)
        for name, dtype in COLUMN_DTYPES.items()
    }
    return rows, bodies


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
