"""What erasing does to one buffer: records leave it and its snapshots, and their files are rewritten without them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from memory_format import StorageError
from memory_format.header import HEADER_DTYPE
from memory_service.store.changes import expect_own
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.loading import SealedSegments, records_of
from memory_service.store.pure.columns import Rows, concatenated
from memory_service.store.pure.erasing import TARGET_DTYPE, Targets, erasing, places_of, same_bodies, targets_of
from memory_service.store.pure.revised import Revised, among, shown_ids
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


@dataclass(frozen=True)
class Chosen:
    """What is to be erased from one buffer."""

    targets: Targets
    exemplar_ids: set[int]
    """By which the records are known."""
    identities: set[tuple[int, int]]
    """Of the exemplars: id, and the CRC-32 of what was pushed."""


class Wiping:
    """Erases records of one buffer. For the holder of its lock."""

    def __init__(self, contents: Contents, commits: Commits) -> None:
        self._contents = contents
        self._commits = commits

    def targets(
        self, exemplar_ids: Collection[int], where: Filter | None, only_learner: str | None, *, below: int | None = None
    ) -> Chosen:
        """The records of these ids, and those that match, where there is a filter: live ones, those that snapshots
        hold, and those that are dead and still in a file. Of each, all that it was before and came to be by replaced
        arrays. From here on they are held back, as :meth:`held_back` says.

        Args:
            below: none of this id or a higher one.

        Raises:
            ForbiddenError: one is another learner's than ``only_learner``.
            StorageError: a segment is damaged.
        """
        learners, revised, rows = self._contents.learners, self._revised(), self._rows()
        ids = shown_ids(revised, rows["exemplar_id"])
        wanted = np.fromiter(exemplar_ids, np.uint64)
        if where is not None:
            shown = rows.copy()
            shown["exemplar_id"] = ids
            matches = ids[matching(shown, where, learners, self._contents.fields.of(shown, where))]
            wanted = np.concatenate([wanted, matches])
        if below is not None:
            wanted = wanted[wanted < below]
        chosen = np.flatnonzero(np.isin(ids, wanted))
        expect_own(rows, learners, chosen, only_learner)
        found, known_by = rows.take(chosen), set(ids[chosen].tolist())
        self._contents.leaving |= known_by
        return Chosen(targets_of(found), known_by, set(_identities(revised, found)))

    def targets_of_exemplars(self, identities: set[tuple[int, int]]) -> Chosen:
        """All records of those exemplars here, where this is a fork of what they are of, and nobody knows from where
        on ids mean others: arrays may have been replaced in one of the two since. They are held back, too."""
        found = self._records_of(identities, self._revised(), self._rows())
        return Chosen(targets_of(found), set(), identities)

    def held_back(self, targets: Targets) -> tuple[Targets, list[int]]:
        """Those of the targets that are records of this buffer and whatever else is of the same exemplars, and the ids
        by which they are known: these exemplars get no other arrays any more, which would be records that nobody has
        named."""
        revised, rows = self._revised(), self._rows()
        identities = set(_identities(revised, rows.take(places_of(targets, rows))))
        identities.update(zip(targets["exemplar_id"].tolist(), targets["crc32"].tolist(), strict=True))
        found = targets_of(self._records_of(identities, revised, rows))
        return found, shown_ids(revised, found["exemplar_id"]).tolist()

    def _records_of(self, identities: set[tuple[int, int]], revised: Revised, rows: Rows) -> Rows:
        ids = np.fromiter((exemplar_id for exemplar_id, _ in identities), np.uint64)
        rows = rows.take(np.flatnonzero(np.isin(shown_ids(revised, rows["exemplar_id"]), ids)))
        pairs = _identities(revised, rows)
        self._contents.leaving |= {exemplar_id for exemplar_id, _ in identities.intersection(pairs)}
        return rows.take(np.flatnonzero([pair in identities for pair in pairs]))

    def _revised(self) -> Revised:
        with self._contents.index.reading() as reading:
            return reading.revised(self._contents.state.config.id)

    def _rows(self) -> Rows:
        """All records that are in a file, as they are stored."""
        held = [columns.take(np.arange(columns.num_records)) for columns in self._contents.state.held]
        return concatenated([*held, *(rows for _, rows in self._with_dead())])

    def bodies(self, targets: Targets) -> Iterator[memoryview]:
        """Those bytes of records that can be read."""
        rows = self._rows()
        rows = rows.take(places_of(targets, rows))
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
            ids = (state.columns.shown_ids[live], state.pinned.columns.shown_ids[pinned])
            wiped.deleted = np.unique(np.concatenate(ids)).tolist()
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
        found = [columns.shown_ids[same_bodies(targets, columns)] for columns in self._contents.state.held]
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
            for columns in state.held:
                places = columns.positions_of(rows["exemplar_id"])
                known = np.flatnonzero(places >= 0)
                held[known] |= columns["segment"][places[known]] == segment.id
            yield segment, rows[~held]


def of_identities(identities: set[tuple[int, int]]) -> Targets:
    """Exemplars as what is to be erased: no record has that length. Where arrays are replaced meanwhile, all records
    that were named may be gone from all files."""
    return np.array([(*identity, 0) for identity in identities], TARGET_DTYPE)


def _identities(revised: Revised, rows: Rows) -> list[tuple[int, int]]:
    """Of each record; see :attr:`Chosen.identities`."""
    found, said = among(revised, rows["exemplar_id"])
    ids, crc32 = rows["exemplar_id"].copy(), rows["crc32"].copy()
    ids[found], crc32[found] = said["exemplar_id"], said["pushed_crc32"]
    return list(zip(ids.tolist(), crc32.tolist(), strict=True))
