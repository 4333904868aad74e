"""What one change of a buffer did, as bytes: who has the state before it makes the one after it of that.

It goes along with the change in the index, where several replicas share that: so who is behind reads what is new, and
not the whole buffer.
"""

from __future__ import annotations

import json
import operator
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_service.store.pure.change import Change, Move, Written
from memory_service.store.pure.columns import ROW_DTYPE, Learners, Rows
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.revised import REVISED_DTYPE
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.pure.words import stored

_FORMAT: Final = 1
_ARRAYS: Final[dict[str, np.dtype[Any]]] = {
    "rows": ROW_DTYPE,
    "dead": np.dtype("<u8"),
    "died": np.dtype("<u8"),
    "rescored": np.dtype("<u8"),
    "score": np.dtype("<f4"),
    "rank": np.dtype("<u4"),
    "revised": REVISED_DTYPE,
    "words": np.dtype("u1"),
}
"""Behind the JSON and a zero byte, one after another."""


@dataclass(frozen=True)
class Wrote:
    """What a change has put into segments."""

    rows: Rows
    """In the order in which they were, with their segments and offsets."""
    segments: Collection[int] = ()
    """Ids of those written to."""
    full: Collection[int] = ()
    """Ids of those that are not gone on with."""


NOTHING_WRITTEN: Final = Wrote(np.zeros(0, ROW_DTYPE))


def packed(before: State, change: Change, after: State, wrote: Wrote, learners: Learners, gone: int | None) -> bytes:
    """What became of a state by a change.

    Args:
        gone: id of the segment that was rewritten, where all that the change does is that; ``wrote`` says where its
            records are.
    """
    codes, places = np.unique(wrote.rows["learner"], return_inverse=True)
    rows = wrote.rows.astype(ROW_DTYPE)
    rows["learner"] = places
    ids = before.columns["exemplar_id"]
    arrays: dict[str, NDArray[Any]] = {
        "rows": rows,
        "dead": ids[change.dead],
        "died": change.died,
        "rescored": ids[change.rescored],
        "score": change.score,
        "rank": change.rank,
        "revised": change.revised,
        "words": np.frombuffer(b"" if change.words is None else change.words.packed, np.uint8),
    }
    said = {
        "format": _FORMAT,
        "figures": _figures(after),
        "counts": vars(after.counts),
        "learners": [learners.ids[code] for code in codes.tolist()],
        "segments": [
            (s.id, s.stem, s.file_bytes, s.num_records, s.sealed, s.open_bytes, s.id in wrote.full)
            for s in map(after.segments.__getitem__, wrote.segments)
        ],
        "gone": gone,
        "classes": sorted(change.classes),
        "names": list(change.names.items()),
        "config": change.config.settings() if change.config != before.config else None,
        "snapshot": change.snapshot and vars(change.snapshot),
        "dropped": [mark.name for mark in change.dropped],
        "arrays": {name: len(values) for name, values in arrays.items()},
    }
    text = json.dumps(said, default=operator.index).encode()
    parts = (arrays[name].astype(dtype, copy=False).tobytes() for name, dtype in _ARRAYS.items())
    return zlib.compress(b"".join([text, b"\0", *parts]), 1)


class News:
    """What :func:`packed` gave. Raises ``ValueError``: another version did, in a way that is not known here."""

    def __init__(self, data: bytes) -> None:
        text, _, rest = zlib.decompress(data).partition(b"\0")
        self._said: dict[str, Any] = json.loads(text)
        if self._said["format"] != _FORMAT:
            raise ValueError(f"news of format {self._said['format']}, {_FORMAT} is known")
        self._arrays: dict[str, NDArray[Any]] = {}
        at = 0
        for name, dtype in _ARRAYS.items():
            number = self._said["arrays"][name]
            self._arrays[name] = np.frombuffer(rest, dtype, number, at)
            at += number * dtype.itemsize

    @property
    def rows(self) -> Rows:
        """:attr:`Wrote.rows`, each one's learner a place in :attr:`learners`."""
        return self._arrays["rows"]

    @property
    def learners(self) -> list[str]:
        """Ids of those of the rows."""
        found: list[str] = self._said["learners"]
        return found

    @property
    def is_move(self) -> bool:
        """Whether records lie elsewhere, and nothing else has changed."""
        return self._said["gone"] is not None

    @property
    def segments(self) -> list[tuple[SegmentState, bool]]:
        """Those written to as they are afterwards, what is held of them not counted, and whether each is full."""
        return [
            (replace(SegmentState(*values), open_bytes=open_bytes), full)
            for *values, open_bytes, full in self._said["segments"]
        ]

    def after(self, state: State, learners: Learners, number: int) -> tuple[State, Move | None]:
        """The state after it, given the one before it and the number of the change; and where records lie elsewhere.
        Raises ``ValueError``: it was not a change of that state."""
        codes = np.array([learners.code(learner) for learner in self.learners], dtype=np.uint32)
        rows = self.rows.copy()
        rows["learner"] = codes[rows["learner"]] if len(rows) else 0
        segments = []
        for segment, _ in self.segments:
            known = state.segments.get(segment.id, segment)
            segments.append(replace(segment, live=known.live, pinned=known.pinned))
        counts = IndexRows(**self._said["counts"])
        move = None
        if self.is_move:
            is_pinned = state.columns.positions_of(rows["exemplar_id"]) < 0
            move = Move(self._said["gone"], rows[~is_pinned], rows[is_pinned], segments, number)
            after = replace(state.after_move(move), counts=counts)
        else:
            after = state.after(self._change(state), Written(rows, segments, counts, number))
        if _figures(after) != self._said["figures"]:
            raise ValueError(f"a change comes to {_figures(after)}, it was {self._said['figures']}")
        return after, move

    def _change(self, state: State) -> Change:
        said, arrays = self._said, self._arrays
        version, next_id, *_ = said["figures"]
        missing = [name for name in said["dropped"] if name not in state.snapshots]
        if missing:
            raise ValueError(f"a change has dropped the snapshot {missing[0]!r}, which is not known")
        settings, words = said["config"], arrays["words"].tobytes()
        return Change(
            version,
            next_id,
            state.config if settings is None else BufferConfig.of_settings(settings, state.config.id),
            dead=_places(state, arrays["dead"]),
            died=arrays["died"],
            rescored=_places(state, arrays["rescored"]),
            score=arrays["score"],
            rank=arrays["rank"],
            revised=arrays["revised"],
            classes=frozenset(said["classes"]),
            names=dict(said["names"]),
            words=stored(words) if words else None,
            snapshot=None if said["snapshot"] is None else Snapshot(**said["snapshot"]),
            dropped=[state.snapshots[name] for name in said["dropped"]],
        )


def _figures(state: State) -> list[int]:
    return [int(state.version), int(state.next_id), state.columns.num_records, state.columns.bytes_used]


def _places(state: State, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    places = state.columns.positions_of(ids)
    if (places < 0).any():
        raise ValueError("a change was of records that are not known")
    return places
