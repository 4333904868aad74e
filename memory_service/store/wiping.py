"""What erasing does to one buffer: records leave it and its snapshots, and their files are rewritten without them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memory_format import StorageError
from memory_format.header import HEADER_DTYPE
from memory_service.store.changes import expect_own
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.loading import SealedSegments, records_of
from memory_service.store.pure.columns import Columns, Rows, concatenated
from memory_service.store.pure.erasing import Targets, erasing, places_of, same_bodies, targets_of
from memory_service.store.pure.selection import Filter, matching
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.room import NEW_FILE, frame_overhead, segment_bytes
from memory_service.store.segments.readers import LentLease

logger = logging.getLogger(__name__)

_PIECE = 64 * 1024 * 1024
"""Bytes of bodies that are held at once."""


@dataclass
class Wiped:
    """What has become of one buffer."""

    deleted: list[int] = field(default_factory=list)
    """Ids of records that it held, or its snapshots did."""
    snapshots: dict[str, int] = field(default_factory=dict)
    """Name -> records that it showed."""
    rewritten: list[SegmentState] = field(default_factory=list)
    """Segments that it held with those records, and holds no more."""
    unreturned: int = 0
    """Processes of this machine that had not given back files when they were cut off."""


class Wiping:
    """Erases records of one buffer. For the holder of its lock."""

    def __init__(self, contents: Contents, commits: Commits) -> None:
        self._contents = contents
        self._commits = commits

    def targets(self, exemplar_ids: Sequence[int] | None, where: Filter, only_learner: str | None) -> Targets:
        """The records of these ids, or else those that match: live ones, those that snapshots hold, and those that are
        dead and still in a file.

        Raises:
            ForbiddenError: one is another learner's than ``only_learner``.
            StorageError: a segment is damaged.
        """
        state, learners = self._contents.state, self._contents.learners
        ids = None if exemplar_ids is None else np.array(exemplar_ids, np.uint64)

        def chosen(records: Columns | Rows) -> NDArray[np.int64]:
            if ids is not None:
                return np.flatnonzero(np.isin(records["exemplar_id"], ids))
            return np.flatnonzero(matching(records, where, learners, self._contents.fields.of(records, where)))

        held = [columns.take(chosen(columns)) for columns in (state.columns, state.pinned.columns)]
        found = concatenated([*held, *(rows.take(chosen(rows)) for _, rows in self._with_dead())])
        expect_own(found, learners, np.arange(len(found)), only_learner)
        return targets_of(found)

    def bodies(self, targets: Targets) -> Iterator[memoryview]:
        """Those bytes of records that can be read."""
        state = self._contents.state
        held = [columns.take(places_of(targets, columns)) for columns in (state.columns, state.pinned.columns)]
        rows = concatenated([*held, *(rows.take(places_of(targets, rows)) for _, rows in self._with_dead())])
        ends = np.cumsum(rows["length"].astype(np.int64)) // _PIECE
        for part in np.split(rows, np.flatnonzero(np.diff(ends)) + 1):
            try:
                yield from self._contents.bodies(part)
            except StorageError as error:
                # What is damaged is not searched for: its bytes are not known.
                logger.warning("records that are erased cannot be read: %s", error.message)

    def take_out(self, targets: Targets) -> Wiped:
        """Take records out of the buffer and of its snapshots, in one change; exports that hold any are cut short.

        Raises:
            StorageError: nothing has changed.
        """
        state, wiped = self._contents.state, Wiped()
        live, pinned = places_of(targets, state.columns), places_of(targets, state.pinned.columns)
        if len(live) or len(pinned):
            ids = (state.columns["exemplar_id"][live], state.pinned.columns["exemplar_id"][pinned])
            wiped.deleted = sorted(np.concatenate(ids).tolist())
            change = erasing(state, live, pinned)
            for mark in change.dropped:
                self._contents.leases[mark.name].end()
            self._commits.commit(change)
            wiped.snapshots = {mark.name: mark.erased - state.snapshots[mark.name].erased for mark in change.less}
            staying = self._contents.state.segments.keys()
            wiped.rewritten = [segment for id_, segment in state.segments.items() if id_ not in staying]
        return wiped

    def rewrite(self, targets: Targets, wiped: Wiped) -> None:
        """Rewrite the segments in which something is dead that has the bytes of these records, and end whatever answer
        still reads segments that are gone.

        Raises:
            BudgetError: ``disk_limit_exceeded``: there is no room to rewrite one.
            StorageError: one is damaged, or cannot be rewritten.
        """
        for segment in [segment for segment, rows in self._with_dead() if same_bodies(targets, rows).any()]:
            self._rewrite(segment.id)
            wiped.rewritten.append(segment)
        for lease in self._contents.readers.in_the_way():
            lease.end()
            wiped.unreturned += isinstance(lease, LentLease) and lease.ended

    def others(self, targets: Targets) -> list[int]:
        """Ids of records that the buffer or a snapshot holds and that have the bytes of those."""
        state = self._contents.state
        of_them = (state.columns, state.pinned.columns)
        found = [columns["exemplar_id"][same_bodies(targets, columns)] for columns in of_them]
        return [int(id_) for id_ in np.concatenate(found)]

    def _rewrite(self, id_: int) -> None:
        contents, config = self._contents, self._contents.state.config
        if id_ not in contents.state.segments:
            return
        held = contents.state.segments[id_].held
        overhead = frame_overhead(segment_bytes(config, contents.options))
        needed = int(held.bytes * (1 + overhead)) + HEADER_DTYPE.itemsize * held.records + NEW_FILE
        self._commits.make_room(needed, config.disk_limit_bytes)
        # Making room may have rewritten it.
        if id_ in contents.state.segments:
            self._commits.compactor.rewrite(contents.state.segments[id_])

    def _with_dead(self) -> Iterator[tuple[SegmentState, Rows]]:
        """Segments with records that the buffer does not hold, and those records."""
        contents, sealed = self._contents, SealedSegments(self._contents.segments)
        state = contents.state
        for segment in state.segments.values():
            if segment.held.records == segment.num_records:
                continue
            open_ = None
            if not segment.sealed:
                with contents.index.reading() as reading:
                    open_ = reading.open_segment(segment)
            rows = records_of(segment, open_, sealed, contents.learners)
            held = np.zeros(len(rows), bool)
            for columns in (state.columns, state.pinned.columns):
                places = columns.positions_of(rows["exemplar_id"])
                known = np.flatnonzero(places >= 0)
                held[known] |= columns["segment"][places[known]] == segment.id
            yield segment, rows[~held]
