"""What a buffer holds, from what the index and the segments say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from memory_format import StorageError
from memory_format.api.terms import EVICTION_POLICIES
from memory_service.store.index.base import BufferEntry, BufferRows
from memory_service.store.pure.columns import Columns, Learners, Rows, concatenated, rows_of_headers
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState, tally_of
from memory_service.store.pure.visibility import Pinned, shown_by
from memory_service.store.segments.appending import OpenSegment
from memory_service.store.segments.base import Segments
from memory_service.store.segments.layout import SegmentContents

Purpose = Literal["pushed", "moved", "leaving"]
"""What an open segment takes in. Records that compaction moves have lived long, and go on living together: among
new ones they would have to be moved again and again. Those that a coming change takes out lie apart from both, so
that their files go with them."""


class Growing(NamedTuple):
    """An open segment that is gone on with, and its id."""

    id: int
    segment: OpenSegment


class Contents(Protocol):
    """Whoever reads sealed segments."""

    def contents(self, stem: str) -> SegmentContents:
        """As :meth:`Segments.contents`."""


@dataclass
class SealedSegments:
    """What sealed segments say of themselves, each read once: forks share them, and they never change."""

    segments: Contents
    read: dict[str, SegmentContents] = field(default_factory=dict)

    def contents(self, state: SegmentState) -> SegmentContents:
        """All but the bodies of a segment. Raises ``StorageError``: the file is missing or damaged."""
        found = self.read.get(state.stem)
        if found is None:
            try:
                found = self.segments.contents(state.stem)
                if len(found.headers) != state.num_records:
                    raise ValueError(f"{len(found.headers)} records, the index says {state.num_records}")
            except (OSError, ValueError) as error:
                raise StorageError(
                    f"segment {state.stem} is damaged ({error}); `memory-service verify` says what it held, "
                    "`memory-service repair` goes on without it",
                    code="corrupt_record",
                    segment=state.stem,
                ) from error
            self.read[state.stem] = found
        return found

    def keep_only(self, stems: Iterable[str]) -> None:
        """Forget what others say."""
        self.read = {stem: self.read[stem] for stem in stems if stem in self.read}


def load(
    entry: BufferEntry,
    rows: BufferRows,
    sealed: SealedSegments,
    learners: Learners,
    leased: Mapping[str, Snapshot] | None = None,
) -> State:
    """The state of a buffer.

    Args:
        leased: see :class:`State`.

    Raises:
        StorageError: a segment is damaged.
    """
    marks = [*rows.snapshots.values(), *(leased or {}).values()]
    live: list[Rows] = []
    pinned: list[Rows] = []
    segments: dict[int, SegmentState] = {}
    died: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    for state in sorted(rows.segments, key=lambda state: state.id):
        records = records_of(state, rows.open_segments.get(state.id), sealed, learners)
        dead_ids, versions = rows.deaths.get(state.id, (np.zeros(0, np.uint64), np.zeros(0, np.uint64)))
        dead = np.isin(records["exemplar_id"], dead_ids)
        gone = np.flatnonzero(dead)
        gone_ids = records["exemplar_id"][gone]
        gone_at = versions[np.searchsorted(dead_ids, gone_ids)]
        shown = shown_by(gone_ids, gone_at, marks)
        # By places, and not by a mask: for half of them that takes half as long.
        alive = np.flatnonzero(~dead)
        live.append(records.take(alive) if len(gone) else records)
        pinned.append(records.take(gone[shown]))
        died.append(gone_at[shown])
        segments[state.id] = state.with_more(tally_of(live[-1]), tally_of(pinned[-1]))
    columns = Columns.of_rows(entry.version, *live, revised=rows.revised)
    dead_columns = Pinned.of(concatenated(pinned), np.concatenate(died), rows.revised)
    # Read just now: nobody else looks at them yet.
    for of_them in (columns, dead_columns.columns):
        of_them.set_scores(rows.scores)
    return State(
        config=entry.config,
        columns=columns,
        pinned=dead_columns,
        segments=segments,
        snapshots=rows.snapshots,
        classes=frozenset(rows.classes),
        names=rows.names,
        words=rows.words,
        counts=rows.counts,
        next_id=entry.next_exemplar_id,
        number=rows.number,
        leased=leased or {},
    )


def growing_of(rows: BufferRows, segments: Segments) -> dict[Purpose, Growing]:
    """The open segment to go on with: of several the newest, as the others are full or were left after a failed write.
    Raises ``StorageError``: it cannot be read."""
    if not rows.open_segments:
        return {}
    newest = max(rows.open_segments)
    segment = rows.open_segments[newest]
    return {"pushed": Growing(newest, segments.with_crc(segment))}


def records_of(state: SegmentState, segment: OpenSegment | None, sealed: SealedSegments, learners: Learners) -> Rows:
    """All records of a segment, dead ones too; ``segment`` where it is open. Raises ``StorageError``: it is damaged."""
    if segment is None:
        contents = sealed.contents(state)
        headers, names, lengths = contents.headers, contents.learners, contents.lengths
        starts = headers["offset"]
    else:
        headers, names = segment.headers(), list(segment.learners)
        starts, lengths = segment.places()
    codes = np.array([learners.code(learner) for learner in names], dtype=np.uint32)
    records = rows_of_headers(headers, codes[headers["learner"]] if len(headers) else codes[:0], lengths)
    records["segment"] = state.id
    records["offset"] = starts
    return records


def expect_known(entry: BufferEntry) -> None:
    """Raises ``StorageError``: a newer version made the buffer, with settings that are not known here."""
    name, eviction = entry.config.name, entry.config.eviction
    if eviction not in EVICTION_POLICIES:
        raise StorageError(f"buffer {name!r} has eviction {eviction!r}, which this version does not know")


def expect_counted(entry: BufferEntry, columns: Columns) -> None:
    """Raises ``StorageError`` (``corrupt_record``): a buffer's counters are not what it holds."""
    if (columns.bytes_used, columns.num_records) != (entry.bytes_used, entry.num_records):
        raise StorageError(
            f"buffer {entry.config.name!r} holds {columns.num_records} records of {columns.bytes_used} bytes, its "
            f"counters say {entry.num_records} and {entry.bytes_used}: `memory-service verify` says more, "
            "`memory-service repair` sets them right",
            code="corrupt_record",
        )
