"""What of each segment a buffer holds: records and bytes, as values that add and subtract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

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


def tallies_of(records: Rows | Columns) -> dict[int, Tally]:
    """Segment id -> what of it these records are."""
    if not len(records["segment"]):
        return {}
    ids, inverse, counts = np.unique(records["segment"], return_inverse=True, return_counts=True)
    totals = np.zeros(len(ids), dtype=np.int64)
    np.add.at(totals, inverse, charge_of(records["length"]))
    columns = zip(ids.tolist(), counts.tolist(), totals.tolist(), strict=True)
    return {id_: Tally(count, total) for id_, count, total in columns}


def add(
    segments: dict[int, SegmentState], live: Mapping[int, Tally], pinned: Mapping[int, Tally] | None = None
) -> None:
    """Count records into what their segments hold."""
    for id_, tally in live.items():
        segments[id_] = segments[id_].with_more(live=tally)
    for id_, tally in (pinned or {}).items():
        segments[id_] = segments[id_].with_more(pinned=tally)


def take_off(
    segments: dict[int, SegmentState], live: Mapping[int, Tally], pinned: Mapping[int, Tally] | None = None
) -> None:
    """Count records out of what their segments hold."""
    add(
        segments,
        {id_: NOTHING - tally for id_, tally in live.items()},
        {id_: NOTHING - tally for id_, tally in (pinned or {}).items()},
    )
