"""What of each segment a buffer holds: records and bytes, as values that add and subtract. And which segment to rewrite
so that everything fits the disk limit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from memory_format import HEADER_BYTES
from memory_service.store.pure.columns import Columns, Rows, charge_of


@dataclass(frozen=True)
class Tally:
    """Records, and the sum of their charges."""

    records: int = 0
    bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.records + other.records, self.bytes + other.bytes)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.records - other.records, self.bytes - other.bytes)


NOTHING = Tally()

WORTH_MOVING = 0.05
"""The least share of a file that must come free: below it, moving costs twenty bytes for each one gained."""


@dataclass(frozen=True)
class SegmentState:
    """A segment, and what of it a buffer holds."""

    id: int
    stem: str
    file_bytes: int
    num_records: int
    sealed: bool
    live: Tally = NOTHING
    pinned: Tally = NOTHING
    """Records that only snapshots hold."""
    open_bytes: int = 0
    """What the index holds of an open segment's headers: a sealed one has them in its file."""

    @property
    def held(self) -> Tally:
        return self.live + self.pinned

    @property
    def dead_bytes(self) -> int:
        """What nobody can read any more, and the file's own frame."""
        return self.file_bytes + self.open_bytes - self.live.bytes - self.pinned.bytes

    @property
    def num_dead(self) -> int:
        """Records of it that the index notes as dead, pinned ones included."""
        return self.num_records - self.live.records

    def with_more(self, live: Tally = NOTHING, pinned: Tally = NOTHING) -> SegmentState:
        """With more records held, or fewer where a tally is below zero."""
        return replace(self, live=self.live + live, pinned=self.pinned + pinned)


def tally_of(records: Rows) -> Tally:
    """What these records are together."""
    return Tally(len(records), int(charge_of(records["length"]).sum()))


def tallies_of(records: Rows | Columns) -> dict[int, Tally]:
    """Segment id -> what of it these records are."""
    if not len(records["segment"]):
        return {}
    ids, inverse, counts = np.unique(records["segment"], return_inverse=True, return_counts=True)
    totals = np.zeros(len(ids), dtype=np.int64)
    np.add.at(totals, inverse, charge_of(records["length"]))
    columns = zip(ids.tolist(), counts.tolist(), totals.tolist(), strict=True)
    return {id_: Tally(count, total) for id_, count, total in columns}


def add(segments: dict[int, SegmentState], live: Mapping[int, Tally], pinned: Mapping[int, Tally]) -> None:
    """Count records into what their segments hold."""
    for id_, tally in live.items():
        segments[id_] = segments[id_].with_more(live=tally)
    for id_, tally in pinned.items():
        segments[id_] = segments[id_].with_more(pinned=tally)


def take_off(segments: dict[int, SegmentState], live: Mapping[int, Tally], pinned: Mapping[int, Tally]) -> None:
    """Count records out of what their segments hold."""
    left, lost = ({id_: NOTHING - tally for id_, tally in of.items()} for of in (live, pinned))
    add(segments, left, lost)


def worth_rewriting(
    segments: Iterable[SegmentState],
    room: int,
    overhead: float,
    *,
    leaving: Mapping[int, Tally] | None = None,
    spoilt: Collection[int] = (),
) -> SegmentState | None:
    """The segment whose rewriting frees the most for each byte moved; None where none is worth it.

    Headers are counted twice: in the index, pages of an open segment's may be half empty.

    That is the greedy policy of log-structured stores (Rosenblum and Ousterhout 1992, section 3.4).

    Args:
        room: bytes that may be written before the old file goes.
        overhead: bytes of frame that come with each byte moved.
        leaving: segment id -> records that a coming change takes out. They are moved too, elsewhere, and are not
            among those that the segment holds.
        spoilt: ids of segments that cannot be moved.
    """
    left = leaving or {}

    def gain(segment: SegmentState) -> float:
        return segment.dead_bytes - overhead * segment.held.bytes

    def moved(segment: SegmentState) -> Tally:
        return segment.held + left.get(segment.id, NOTHING)

    able = [
        segment
        for segment in segments
        if segment.id not in spoilt
        and moved(segment).bytes * (1 + overhead) + HEADER_BYTES * moved(segment).records <= room
        and gain(segment) > WORTH_MOVING * segment.file_bytes
    ]
    return max(able, key=lambda s: (gain(s) / (moved(s).bytes + 1), -s.id), default=None)
