"""What a buffer holds, in memory: its columns, its segments, and how a row becomes a record again."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory_format import NotFoundError, StorageError, checksum
from memory_format.record import prefix_bytes
from memory_service.store.index.base import BufferRows
from memory_service.store.pure import ledger, sampler
from memory_service.store.pure.columns import (
    Arrays,
    Columns,
    Learners,
    charge_of,
    concatenated,
    empty_rows,
    headers_of_rows,
    rows_of_headers,
    totals_by_segment,
)
from memory_service.store.pure.compaction import SegmentState
from memory_service.store.pure.model import Snapshot
from memory_service.store.segments.base import OpenSegment, Place, SegmentGoneError
from memory_service.store.segments.layout import SegmentContents, read_contents
from memory_service.store.segments.local import SegmentFiles
from memory_service.store.segments.readers import HeldLease, PinningLease, Readers, lost

_HELD_AT_A_TIME = 16
"""Segments that a thread has open beside those that are kept open anyway."""
_SELECTIONS_KEPT = 16
_VIEWS_KEPT = 4


Purpose = Literal["pushed", "moved", "leaving"]
"""What an open segment takes in. Records that compaction moves have lived long, and go on living together: among
new ones they would have to be moved again and again. Those that a coming change takes out lie apart from both, so
that their files go with them."""


class Growing(NamedTuple):
    """An open segment and its id."""

    id: int
    segment: OpenSegment


@dataclass(frozen=True)
class Pinned:
    """Records that the buffer no longer holds and a snapshot does."""

    columns: Columns
    died: NDArray[np.uint64]
    """The version at which each ceased to be live, ``(P,)``."""

    @classmethod
    def of_rows(cls, rows_: Arrays, died: NDArray[np.uint64]) -> Pinned:
        order = np.argsort(rows_["exemplar_id"], kind="stable")
        return cls(Columns.of_rows(0, rows_), died[order])

    def joined(self, rows_: Arrays, died: NDArray[np.uint64]) -> Pinned:
        """With more of them."""
        if not len(died):
            return self
        mine = self.columns.take(np.arange(self.columns.num_records))
        return Pinned.of_rows(concatenated([mine, rows_]), np.concatenate([self.died, died]))

    def kept(self, keep: NDArray[np.bool_]) -> Pinned:
        return Pinned(self.columns.kept(0, keep), self.died[keep])

    def shown_by(self, snapshots: Sequence[Snapshot]) -> NDArray[np.bool_]:
        """Which of them at least one of the snapshots shows."""
        return shown_by(self.columns["exemplar_id"], self.died, snapshots)


def shown_by(
    exemplar_id: NDArray[np.uint64], died: NDArray[np.uint64], snapshots: Sequence[Snapshot]
) -> NDArray[np.bool_]:
    """Which dead records a snapshot shows: those born before it that died after it."""
    if not len(died) or not snapshots:
        return np.zeros(len(died), dtype=bool)
    # Of the snapshots after a birth the oldest decides: so hundreds of them cost no more than one.
    marks = np.array(sorted((mark.next_exemplar_id, mark.version) for mark in snapshots), dtype=np.uint64)
    oldest = np.minimum.accumulate(marks[::-1, 1])[::-1]
    following = np.searchsorted(marks[:, 0], exemplar_id, side="right")
    shown: NDArray[np.bool_] = np.append(oldest, np.iinfo(np.uint64).max)[following] < died
    return shown


@dataclass
class SegmentCache:
    """Sealed segments that were read while a store is being opened: forks share them."""

    segments: SegmentFiles
    read: dict[str, SegmentContents] = field(default_factory=dict)

    def contents(self, state: SegmentState) -> SegmentContents:
        """Raises:
        StorageError: the file is missing or damaged.
        """
        found = self.read.get(state.stem)
        if found is None:
            try:
                found = read_contents(self.segments.path(state.stem))
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


class Contents:
    """The records of one buffer.

    Changed only by the holder of the buffer's lock. Readers take :attr:`columns` once and stay with it: it
    never changes under them, and a segment that was removed since shows as :class:`SegmentGoneError`.
    """

    def __init__(self, buffer_id: int, segments: SegmentFiles) -> None:
        self._buffer_id = buffer_id
        self._segments = segments
        self.learners = Learners()
        self.columns = Columns.empty(0)
        self.pinned = Pinned(Columns.empty(0), np.zeros(0, np.uint64))
        self.states: dict[int, SegmentState] = {}
        self.growing: dict[Purpose, Growing] = {}
        """The open segments that are gone on with."""
        self.snapshots: dict[str, Snapshot] = {}
        self.readers = Readers()
        self.leases: dict[str, PinningLease] = {}
        """Of snapshots that live as long as somebody reads them, and are not in the index. Their names are no names
        of snapshots."""
        self.classes: set[int] = set()
        self.index_rows = ledger.IndexRows()
        self._views: OrderedDict[str, Columns] = OrderedDict()
        self._selections: OrderedDict[tuple[int, sampler.Filter], sampler.Selection] = OrderedDict()

    # Loading

    def load(
        self,
        found: BufferRows,
        version: int,
        cache: SegmentCache | None = None,
        *,
        to_write: bool = True,
    ) -> None:
        """Take over what the index and the segments say.

        Args:
            found: what the index says.
            to_write: go on with open segments. Otherwise they are not read, and may be missing.

        Raises:
            StorageError: a segment is damaged.
        """
        cache = cache or SegmentCache(self._segments)
        states, deaths = found.segments, found.deaths
        self.snapshots, self.classes, self.index_rows = found.snapshots, found.classes, found.counts
        self.growing.clear()
        live: list[Arrays] = [empty_rows()]
        pinned: list[Arrays] = [empty_rows()]
        died: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
        for state in sorted(states, key=lambda state: state.id):
            rows_ = self._rows_of(state, found.open_segments.get(state.id), cache)
            dead_ids, versions = deaths.get(state.id, (np.zeros(0, np.uint64), np.zeros(0, np.uint64)))
            dead = np.isin(rows_["exemplar_id"], dead_ids)
            gone = np.flatnonzero(dead)
            gone_ids = rows_["exemplar_id"][gone]
            gone_at = versions[np.searchsorted(dead_ids, gone_ids)]
            shown = shown_by(gone_ids, gone_at, self.marks)
            live.append({name: values[~dead] for name, values in rows_.items()} if len(gone) else rows_)
            pinned.append({name: values[gone[shown]] for name, values in rows_.items()})
            died.append(gone_at[shown])
        if to_write:
            self._find_crc()
        else:
            self.growing.clear()
        self.columns = Columns.of_rows(version, concatenated(live))
        self.pinned = Pinned.of_rows(concatenated(pinned), np.concatenate(died))
        self.readers.leave(self.states, lost(self.states, states))
        self.states = {state.id: state for state in states}
        self._rescore(found.scores)
        for columns, records, num_bytes in (
            (self.columns, "live_records", "live_bytes"),
            (self.pinned.columns, "pinned_records", "pinned_bytes"),
        ):
            for id_, (count, charge) in totals_by_segment(columns["segment"], columns.charge).items():
                setattr(self.states[id_], records, count)
                setattr(self.states[id_], num_bytes, charge)
        self._views.clear()
        self._selections.clear()

    def _rows_of(self, state: SegmentState, segment: OpenSegment | None, cache: SegmentCache) -> Arrays:
        if segment is None:
            contents = cache.contents(state)
            headers, learners, lengths = contents.headers, contents.learners, contents.lengths
            starts = headers["offset"]
        else:
            headers, learners = segment.headers(), list(segment.learners)
            starts, lengths = segment.places()
            # Of several the newest: the others are full, or were left after a failed write.
            self.growing["pushed"] = Growing(state.id, segment)
        codes = np.array([self.learners.code(learner) for learner in learners], dtype=np.uint32)
        rows_ = rows_of_headers(headers, codes[headers["learner"]] if len(headers) else codes[:0], lengths)
        rows_["segment"][:] = state.id
        rows_["offset"][:] = starts
        return rows_

    def _find_crc(self) -> None:
        """The CRC of an open segment's bodies is not in the index: it follows from the file."""
        for purpose, (id_, segment) in self.growing.items():
            crc32 = checksum.crc32(self._segments.bodies_of(segment))
            self.growing[purpose] = Growing(id_, replace(segment, crc32=crc32))

    def _rescore(self, changed: Arrays) -> None:
        if not changed:
            return
        for which in (self.columns, self.pinned.columns):
            positions = which.positions_of(changed["exemplar_id"])
            found = positions >= 0
            # Loaded just now: nobody else reads them yet.
            for name in ("score", "rank"):
                which.backing[name][positions[found]] = changed[name][found]

    # What the disk holds

    @property
    def file_bytes(self) -> int:
        return sum(state.file_bytes for state in list(self.states.values()))

    @property
    def index_bytes(self) -> int:
        states = list(self.states.values())
        dead, open_bytes = sum(state.num_dead for state in states), sum(state.open_bytes for state in states)
        return self.index_rows.num_bytes(segments=len(states), dead=dead) + open_bytes

    @property
    def disk_bytes(self) -> int:
        """All that is on disk for the buffer."""
        return self.file_bytes + self.index_bytes + self.readers.held_bytes

    def ids_in(self, state: SegmentState) -> NDArray[np.uint64]:
        """Exemplar ids of all records in a sealed segment, dead ones too.

        Raises:
            StorageError: the file is damaged.
        """
        ids: NDArray[np.uint64] = SegmentCache(self._segments).contents(state).headers["exemplar_id"]
        return ids

    # Reading

    def read_bodies(self, taken: Arrays, into: memoryview | None = None) -> tuple[memoryview, NDArray[np.int64]]:
        """Bodies of rows end to end, in their order, and where each begins.

        Args:
            into: where to put them, of just that size; default memory of their own.

        Raises:
            SegmentGoneError: a segment was rewritten or removed since the rows were current.
            StorageError: a record is damaged.
        """
        ids, places, starts = self._places(taken)
        target = memoryview(bytearray(int(taken["length"].sum(dtype=np.int64)))) if into is None else into
        places.sort()
        stems = self.readers.begin(lambda: self._stems(ids))
        try:
            for first in range(0, len(stems), _HELD_AT_A_TIME):
                part = places[bisect_left(places, (first,)) : bisect_left(places, (first + _HELD_AT_A_TIME,))]
                with self._segments.hold(stems[first : first + _HELD_AT_A_TIME], first) as held:
                    held.read(part, target)
        finally:
            self.readers.done(stems)
        return target, starts

    def hold_bodies(self, taken: Arrays, *, wait: bool = True) -> tuple[HeldLease, list[Place]] | None:
        """A lease of the segments of rows, where in them the bodies are, and where each goes, end to end; None where
        they are more than can be held at once.

        Args:
            wait: for files to be opened.

        Raises:
            BlockingIOError: without ``wait``, not all of them are open.
            SegmentGoneError: a segment was rewritten or removed since the rows were current.
            StorageError: a record is known to be damaged.
        """
        ids, places, _ = self._places(taken)
        lease = self.hold(ids, wait=wait, places=places)
        return None if lease is None else (lease, places)

    def hold(self, ids: Sequence[int], *, wait: bool = True, places: Sequence[Place] = ()) -> HeldLease | None:
        """A lease of segments; raises as :meth:`hold_bodies`."""
        if len(ids) > self._segments.room_to_hold():
            return None
        stems = self.readers.begin(lambda: self._stems(ids))
        try:
            held = self._segments.hold(stems, wait=wait)
            try:
                held.expect_sound(places)
            except BaseException:
                held.close()
                raise
        except BaseException:
            self.readers.done(stems)
            raise
        return self.readers.lease(stems, held)

    def _stems(self, ids: Iterable[int]) -> list[str]:
        return [self._state(id_).stem for id_ in ids]

    def _places(self, taken: Arrays) -> tuple[list[int], list[Place], NDArray[np.int64]]:
        """The segments of rows, and for each row which of them, its place there, and where it goes, end to end."""
        lengths = taken["length"].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        ids, which = np.unique(taken["segment"], return_inverse=True)
        columns = (which, taken["offset"], lengths, taken["crc32"], starts)
        places = list(zip(*(column.tolist() for column in columns), strict=True))
        return ids.tolist(), places, starts

    def read_prefixes(self, taken: Arrays) -> list[bytes]:
        """The keep mask and token mask of rows, unchecked. Raises as :meth:`read_bodies`."""
        lengths = prefix_bytes(headers_of_rows(taken)).tolist()
        out: list[bytes] = [b""] * len(lengths)
        of_rows = self.readers.begin(lambda: self._stems(taken["segment"].tolist()))
        try:
            for place, (stem, offset) in enumerate(zip(of_rows, taken["offset"].tolist(), strict=True)):
                (out[place],) = self._segments.read_prefixes(stem, [(offset, lengths[place])])
        finally:
            self.readers.done(of_rows)
        return out

    def _state(self, segment_id: int) -> SegmentState:
        state = self.states.get(segment_id)
        if state is None:
            raise SegmentGoneError(str(segment_id))
        return state

    def learner_ids(self, taken: Mapping[str, NDArray[np.uint32]]) -> list[str]:
        ids = self.learners.ids
        return [ids[code] for code in taken["learner"].tolist()]

    # Snapshots

    @property
    def marks(self) -> list[Snapshot]:
        """All that pins records: snapshots and leases."""
        return [*self.snapshots.values(), *(lease.mark for lease in self.leases.values())]

    def snapshot(self, name: str) -> Snapshot:
        """Raises:
        NotFoundError: ``unknown_snapshot``.
        """
        found = self.snapshots.get(name)
        if found is None and name in self.leases:
            found = self.leases[name].mark
        if found is None:
            raise NotFoundError(f"there is no snapshot {name!r} of this buffer", code="unknown_snapshot")
        return found

    def known_view(self, name: str) -> Columns | None:
        """A snapshot's records, where they were asked for lately."""
        return self._views.get(name)

    def view(self, name: str, read_scores: Callable[[int], Arrays]) -> Columns:
        """The records that a snapshot shows. For the holder of the buffer's lock.

        Args:
            read_scores: version -> what :meth:`Reading.scores_at` finds.

        Raises:
            NotFoundError: ``unknown_snapshot``.
        """
        known = self._views.get(name)
        if known is not None:
            self._views.move_to_end(name)
            return known
        snapshot = self.snapshot(name)
        view = self.view_at(snapshot, read_scores(snapshot.version))
        self._views[name] = view
        if len(self._views) > _VIEWS_KEPT:
            self._views.popitem(last=False)
        return view

    def view_at(self, snapshot: Snapshot, changed: Arrays) -> Columns:
        live = self.columns.take(np.flatnonzero(self.columns["exemplar_id"] < snapshot.next_exemplar_id))
        dead = self.pinned.columns.take(np.flatnonzero(self.pinned.shown_by([snapshot])))
        view = Columns.of_rows(snapshot.version, concatenated([live, dead]))
        positions = view.positions_of(changed["exemplar_id"])
        found = positions >= 0
        for name in ("score", "rank"):
            view.backing[name][positions[found]] = changed[name][found]
        return view

    def forget_view(self, name: str) -> None:
        self._views.pop(name, None)

    def move(self, ids: NDArray[np.uint64], segment: NDArray[np.uint32], offset: NDArray[np.uint32]) -> None:
        """Records lie elsewhere now."""

        def moved(columns: Columns) -> Columns:
            positions = columns.positions_of(ids)
            found = positions >= 0
            return columns.moved(positions[found], segment[found], offset[found])

        self.columns = moved(self.columns)
        self.pinned = Pinned(moved(self.pinned.columns), self.pinned.died)
        for name, view in list(self._views.items()):
            self._views[name] = moved(view)

    # Selections

    def select(self, columns: Columns, where: sampler.Filter) -> sampler.Selection:
        """The records of ``columns`` that match, remembered for a while."""
        key = (columns.version, where)
        found = self._selections.get(key)
        if found is None:
            found = sampler.select(columns, where, self.learners.known_codes(where.learner_id or ()))
            self._selections[key] = found
            while len(self._selections) > _SELECTIONS_KEPT:
                # Another thread may have been faster.
                self._selections.popitem(last=False)
        return found

    def is_selected(self, columns: Columns, request: sampler.SampleRequest) -> bool:
        """Whether drawing needs no pass over all records, as one was made for an earlier request."""
        if request.where == sampler.EVERYTHING and request.strategy == "uniform":
            return True
        found = self._selections.get((columns.version, request.where))
        return found is not None and found.is_ready(request.strategy)

    def forget_selections(self) -> None:
        """Those of versions that nobody can ask for any more."""
        versions = {self.columns.version, *(mark.version for mark in self.marks)}
        for key in list(self._selections):
            if key[0] not in versions:
                self._selections.pop(key, None)


def charges(taken: Arrays) -> int:
    """Sum of the charges of rows."""
    return int(charge_of(taken["length"]).sum())
