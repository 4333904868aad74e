"""Every change of a buffer: write its records, one transaction, then the picture in memory.

Whatever fails on the way, the buffer is as before. Called by the holder of the buffer's lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError, ConflictError, StorageError, checksum
from memory_format.record import HEADER_DTYPE
from memory_service.store.contents import Contents, Growing, Purpose, shown_by
from memory_service.store.index.base import BufferEntry, Index, Reading, Writing
from memory_service.store.pure import compaction, ledger
from memory_service.store.pure.answers import Answer, read_answer
from memory_service.store.pure.columns import (
    Arrays,
    Columns,
    charge_of,
    concatenated,
    empty_rows,
    headers_of_rows,
    totals_by_segment,
)
from memory_service.store.pure.compaction import SegmentState
from memory_service.store.pure.ledger import store_share
from memory_service.store.pure.model import BufferConfig, Options, PushAnswer, Snapshot
from memory_service.store.segments import files
from memory_service.store.segments.base import Part, SegmentGoneError
from memory_service.store.segments.layout import BODY_AT, frame_bytes
from memory_service.store.segments.local import SMALLEST_SEALED, SegmentFiles, added_bytes
from memory_service.store.segments.owner import owner_of
from memory_service.store.segments.readers import Lease, PinningLease

logger = logging.getLogger(__name__)

SMALLEST_SEGMENT = 32 * 1024
_ANSWERS_KEPT = 100
"""Answers to pushes that are kept also where the disk limit is short."""
_NEW_FILE = BODY_AT + ledger.SEGMENT_ROW + ledger.OPEN_ROW
_READ_SECONDS = 1.0
"""For how long a change waits for readers that go at the pace of the disk."""
_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass
class Change:
    """What one transaction does to a buffer; whatever is not said stays as it is."""

    version: int
    next_id: int
    config: BufferConfig
    new: Arrays = field(default_factory=empty_rows)
    """Records that come in, with their ids, ``segment`` and ``offset`` still open."""
    bodies: Sequence[files.Buffer] = ()
    dead: NDArray[np.int64] = field(default_factory=lambda: _NOTHING)
    """Positions of live records that leave, ascending."""
    died: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """The version at which each of them does."""
    rescored: NDArray[np.int64] = field(default_factory=lambda: _NOTHING)
    """Positions of live records that get another score or rank, ascending."""
    score: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    rank: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    classes: set[int] = field(default_factory=set)
    """Classes seen for the first time."""
    answers: list[Answer] = field(default_factory=list)
    taken: Snapshot | None = None
    """A snapshot that is taken."""
    dropped: list[Snapshot] = field(default_factory=list)
    """Snapshots that are deleted."""
    forgets_answers: bool = False
    """Answers to pushes go, all but the newest."""


@dataclass(frozen=True)
class _Leaving:
    """What a change takes out of a buffer."""

    live: Arrays
    """Records that are live before it."""
    pinned: NDArray[np.bool_]
    """Which of them a snapshot goes on showing."""
    freed: NDArray[np.bool_]
    """Which of the records that only snapshots hold no snapshot will show."""
    lost: Arrays
    """Those."""


def segment_bytes(config: BufferConfig, options: Options) -> int:
    """Bodies after which a segment is full: few against the disk over the budget, in which it is rewritten."""
    headroom = config.disk_limit_bytes - config.budget_bytes
    return min(options.segment_bytes, max(SMALLEST_SEGMENT, headroom // 16))


def frame_overhead(num_bytes: int) -> float:
    """Bytes of frame for each byte moved to a segment of that many, which is sealed one day."""
    return 0.0 if num_bytes < SMALLEST_SEALED else frame_bytes(0, ()) / num_bytes


def discard(index: Index, segments: SegmentFiles, parts: Iterable[Part]) -> None:
    """Remove new segments of a change that failed, unless it was committed all the same.

    Where that cannot be found out they stay, and the next start looks again.
    """
    stems = {part.after.stem for part in parts}
    if not stems:
        return
    try:
        with index.reading() as reading:
            stems -= reading.known_stems(stems)
    except StorageError:
        logger.exception("cannot tell whether a change was committed; its files stay")
        return
    segments.delete(stems)


class Commits:
    """Changes one buffer."""

    def __init__(
        self,
        config: BufferConfig,
        next_exemplar_id: int,
        index_: Index,
        segments: SegmentFiles,
        contents: Contents,
        options: Options,
    ) -> None:
        self.config = config
        self.next_id = next_exemplar_id
        self._index = index_
        self._segments = segments
        self._contents = contents
        self._options = options
        self._answers_looked_at = 0.0
        """When old answers were last looked for, seconds since 1970."""
        self._unsettled: list[Part] | None = None
        """What was written when it could not be found out whether it was committed."""

    def change(self) -> Change:
        """A change that does nothing yet."""
        return Change(self._contents.columns.version, self.next_id, self.config)

    def known_answer(self, key: str, digest: bytes) -> PushAnswer | None:
        """The answer to an earlier push with this key.

        Raises:
            ConflictError: ``idempotency_key_reused``, it held other records.
        """
        with self._index.reading() as reading:
            found = reading.find_answer(self.config.id, key)
        if found is None:
            return None
        if found.digest != digest:
            raise ConflictError(
                f"the idempotency key {key!r} was used for another body; new records take a new key",
                code="idempotency_key_reused",
            )
        return PushAnswer(read_answer(found.answer), replayed=True)

    # Disk

    def _taken(self, limit: int) -> int:
        """Bytes on disk that count against a disk limit."""
        return self._contents.disk_bytes + store_share(replace(self.config, given_disk_limit=limit))

    @property
    def headroom(self) -> int:
        """Bytes of disk over the budget."""
        return self.config.disk_limit_bytes - self.config.budget_bytes

    @property
    def segment_bytes(self) -> int:
        return segment_bytes(self.config, self._options)

    def make_room(self, needed: int, limit: int) -> None:
        """Rewrite segments until ``needed`` bytes more fit the disk limit.

        Raises:
            BudgetError: ``disk_limit_exceeded``.
            StorageError: a segment could not be rewritten.
        """
        while (before := self._taken(limit)) + needed > limit:
            freed = self._forget_old_answers() or self._compact_one(limit)
            if (not freed or self._taken(limit) >= before) and not self._end_lease():
                free = max(0, limit - self._taken(limit))
                pinned = sum(state.pinned_bytes for state in self._contents.states.values())
                held = self._contents.readers.held_bytes
                raise BudgetError(
                    f"{needed} more bytes on disk are needed, {free} of {limit} are free"
                    + (f", {held} are read for other answers" if held else "")
                    + (f", and snapshots hold {pinned}: delete some," if pinned else ":")
                    + " push fewer at once or raise disk_limit_bytes",
                    code="disk_limit_exceeded",
                    requested_bytes=needed,
                    free_bytes=free,
                    disk_limit_bytes=limit,
                    pinned_bytes=pinned,
                )

    def _end_lease(self, change: Change | None = None) -> bool:
        """Let go of what is kept for one answer on its way: of those that keep something from going, the one whose
        reader has taken nothing for the longest. Returns whether anything went.

        Args:
            change: a change to come; what leases will keep of what it takes out counts too.
        """
        contents = self._contents
        pinned, died = contents.pinned.columns["exemplar_id"], contents.pinned.died
        if change is not None:
            pinned = np.concatenate([pinned, contents.columns["exemplar_id"][change.dead]])
            died = np.concatenate([died, change.died])
        shown = shown_by(pinned, died, list(contents.snapshots.values()))
        pinning = [
            lease
            for lease in contents.leases.values()
            if not lease.ended and (shown_by(pinned, died, [lease.mark]) & ~shown).any()
        ]
        leases: list[Lease] = [*pinning, *contents.readers.in_the_way()]
        if not leases:
            # Whoever reads without one is done in a moment.
            return contents.readers.wait(_READ_SECONDS)
        lease = min(leases, key=lambda lease: lease.progressed)
        logger.warning(
            "an answer of buffer %s is cut short: a change needs the room of what it reads", self.config.name
        )
        lease.end()
        if isinstance(lease, PinningLease):
            self.commit(replace(self.change(), dropped=[lease.mark]))
        return True

    def fit(self, change: Change) -> Change:
        """Make everything fit the disk limit of a change that adds nothing, before it is made.

        Segments are rewritten: what the change takes out goes to files of its own, which go with it. So nothing
        that is held changes here, the present limit holds all the while, and where it does not help, or fails, nothing
        has been evicted. Returns the change, which may have to forget answers too.

        Raises:
            BudgetError: ``disk_limit_exceeded``.
            StorageError: a segment could not be rewritten.
        """
        limit = change.config.disk_limit_bytes
        try:
            taken = self._taken_after(change)
            while taken > limit:
                before, moved = taken, self._separate_one(change)
                taken = self._taken_after(change)
                if not (moved and taken < before):
                    if not self._end_lease(change):
                        break
                    taken = self._taken_after(change)
        finally:
            # What is left in it otherwise, where the change is not made, is not to grow on.
            self._contents.growing.pop("leaving", None)
        if taken > limit:
            change = replace(change, forgets_answers=True)
            taken = self._taken_after(change)
        if taken > limit:
            raise BudgetError(
                f"{taken} bytes would be left on disk, the disk limit would be {limit}: delete snapshots, or give a "
                "larger disk_limit_bytes",
                code="disk_limit_exceeded",
                requested_bytes=taken,
                disk_limit_bytes=limit,
                pinned_bytes=sum(state.pinned_bytes for state in self._states_after(self._leaving(change))),
            )
        return change

    def held_after(self, change: Change) -> int:
        """Charges of what is live or what snapshots hold once a change is made that adds nothing."""
        contents = self._contents
        snapshots = [mark for mark in contents.snapshots.values() if mark not in change.dropped]
        leaving = contents.columns.take(change.dead)
        charge = charge_of(leaving["length"])
        staying = contents.columns.bytes_used - int(charge.sum())
        newly = int(charge[shown_by(leaving["exemplar_id"], change.died, snapshots)].sum())
        return staying + newly + int(contents.pinned.columns.charge[contents.pinned.shown_by(snapshots)].sum())

    def _taken_after(self, change: Change) -> int:
        """At most the bytes on disk that count against the limit of a change, once it is made."""
        states = self._states_after(self._leaving(change))
        counts = self._contents.index_rows
        answers, answer_bytes = 0, 0
        if change.forgets_answers:
            with self._index.reading() as reading:
                answers, answer_bytes = reading.answers_beyond(self.config.id, _ANSWERS_KEPT)
        counts = replace(
            counts,
            snapshots=counts.snapshots - len(change.dropped),
            answers=counts.answers - answers,
            answer_bytes=counts.answer_bytes - answer_bytes,
            description_bytes=len(change.config.description.encode()),
        )
        num_bytes = sum(state.file_bytes + state.open_bytes for state in states)
        num_bytes += counts.num_bytes(segments=len(states), dead=sum(state.num_dead for state in states))
        going = self._contents.states.keys() - {state.id for state in states}
        return (
            num_bytes
            + store_share(change.config)
            + self._contents.readers.held_with(self._contents.states[id_] for id_ in going)
        )

    def _leaving(self, change: Change) -> _Leaving:
        contents = self._contents
        live = contents.columns.take(change.dead)
        marks = [mark for mark in contents.marks if mark not in change.dropped]
        pinned = shown_by(live["exemplar_id"], change.died, marks)
        # Pinned records that no snapshot will show.
        freed = ~contents.pinned.shown_by(marks) if change.dropped else np.zeros(len(contents.pinned.died), bool)
        return _Leaving(live, pinned, freed, contents.pinned.columns.take(np.flatnonzero(freed)))

    def _states_after(self, leaving: _Leaving) -> list[SegmentState]:
        """The segments of which the buffer holds anything once records have left."""
        states = {id_: replace(state) for id_, state in self._contents.states.items()}
        _tally(states, leaving)
        for before in self._contents.states.values():
            after = states[before.id]
            after.leaving_records = before.held_records - after.held_records
            after.leaving_bytes = before.held_bytes - after.held_bytes
        return [state for state in states.values() if state.held_records]

    def _separate_one(self, change: Change) -> bool:
        """Rewrite the segment that is worth it most once a change is made, what leaves by it apart from what stays;
        returns whether there was one."""
        leaving = self._leaving(change)
        goes = np.zeros(self._contents.columns.num_records, dtype=bool)
        goes[change.dead[~leaving.pinned]] = True
        return self._compact(self.config.disk_limit_bytes, self._states_after(leaving), goes, leaving.freed) > 0

    def tidy(self, pushed_bytes: int) -> None:
        """Rewrite segments so that the next push finds room. Does not raise: nothing depends on it.

        A push pays for at most twice its own bytes and one segment, which bounds its pause.
        """
        limit = self.config.disk_limit_bytes
        # Where there is little headroom, garbage must have the larger part of it: else all of it is moved for ever.
        reserve = min(max(self.headroom // 8, 2 * self.segment_bytes), self.headroom // 2)
        paid = 0
        try:
            while self._taken(limit) > limit - reserve and paid <= 2 * pushed_bytes:
                moved = self._compact_one(limit)
                if not moved:
                    return
                paid += moved
        except (StorageError, BudgetError):
            logger.exception("compaction of buffer %s failed; nothing is lost", self.config.name)

    def _compact_one(self, limit: int) -> int:
        """Rewrite the segment that is worth it most; returns the bytes moved, 0 where none is."""
        return self._compact(limit, list(self._contents.states.values()))

    def _compact(
        self,
        limit: int,
        states: Sequence[SegmentState],
        goes: NDArray[np.bool_] | None = None,
        freed: NDArray[np.bool_] | None = None,
    ) -> int:
        """:meth:`_compact_one` of some states, which may be those to come.

        Args:
            goes, freed: which live and which pinned records are to lie apart from the others.
        """
        while True:
            new_files = _NEW_FILE * (1 if goes is None else 2)
            room = limit - self._taken(limit) - self._sealing_bytes() - new_files
            state = compaction.choose(states, room, self._frame_overhead())
            if state is None:
                return 0
            try:
                return self._rewrite(self._contents.states[state.id], goes, freed)
            except StorageError as error:
                if error.code != "corrupt_record":
                    raise
                logger.error("segment %s is not rewritten: %s", state.stem, error.message)
                self._contents.states[state.id].damaged = state.damaged = True

    def _sealing_bytes(self) -> int:
        """What is added where the records moved fill their segment: the frame of those it has already."""
        if self.segment_bytes < SMALLEST_SEALED:
            return 0
        growing = [segment for purpose, (_, segment) in self._contents.growing.items() if purpose != "pushed"]
        return sum(frame_bytes(segment.num_records, segment.learners) for segment in growing)

    def _frame_overhead(self) -> float:
        return frame_overhead(self.segment_bytes)

    def _rewrite(
        self, state: SegmentState, goes: NDArray[np.bool_] | None = None, freed: NDArray[np.bool_] | None = None
    ) -> int:
        contents = self._contents
        live = np.flatnonzero(contents.columns["segment"] == state.id)
        pinned = np.flatnonzero(contents.pinned.columns["segment"] == state.id)
        moved = concatenated([contents.columns.take(live), contents.pinned.columns.take(pinned)])
        is_pinned = np.arange(len(live) + len(pinned)) >= len(live)
        died = np.concatenate([np.zeros(len(live), np.uint64), contents.pinned.died[pinned]])
        leaves = np.zeros(len(is_pinned), bool)
        if goes is not None and freed is not None:
            leaves = np.concatenate([goes[live], freed[pinned]])
        try:
            view, starts = contents.read_bodies(moved)
        except SegmentGoneError as error:
            raise StorageError(f"segment {error} is missing from the store") from error
        ends = starts + moved["length"]
        bodies = [view[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        # A segment that is rewritten is not one to go on with.
        self._close(state.id)
        places: dict[Purpose, NDArray[np.int64]] = {"moved": np.flatnonzero(~leaves), "leaving": np.flatnonzero(leaves)}
        owner = owner_of(self.config, contents.columns.version, self.next_id)
        writings: dict[Purpose, _Writing] = {}
        added: dict[Purpose, list[int]] = {}
        with ExitStack() as stack:
            for purpose, of in places.items():
                part = {name: values[of] for name, values in moved.items()}
                writing = _Writing(self, part, [bodies[place] for place in of.tolist()], purpose, owner)
                writings[purpose] = stack.enter_context(writing)
            with self._index.writing() as transaction:
                for purpose, writing in writings.items():
                    added[purpose] = writing.note(transaction)
                    was = is_pinned[places[purpose]]
                    dead = {name: values[was] for name, values in writing.rows.items()}
                    transaction.insert_deaths(self.config.id, dead, died[places[purpose]][was])
                orphaned = transaction.drop_segments(self.config.id, [state])
                self._write_figures(transaction, contents.columns.version, contents.columns, self.next_id)
            for writing in writings.values():
                writing.committed = True
        for purpose, writing in writings.items():
            self._adopt_parts(writing.parts, added[purpose], purpose)
            for name in ("segment", "offset"):
                moved[name][places[purpose]] = writing.rows[name]
        contents.move(moved["exemplar_id"], moved["segment"], moved["offset"])
        _count(contents.states, "live", {name: values[~is_pinned] for name, values in moved.items()})
        _count(contents.states, "pinned", {name: values[is_pinned] for name, values in moved.items()})
        self._forget([state], orphaned)
        return max(len(view), 1)

    def _forget_old_answers(self) -> bool:
        """Answers to pushes go before records have to: all but the newest."""
        counts = self._contents.index_rows
        if counts.answers <= _ANSWERS_KEPT:
            return False
        with self._index.writing() as transaction:
            counts = _forget_answers(transaction, self.config.id, counts, but_newest=_ANSWERS_KEPT)
        self._contents.index_rows = counts
        return True

    # The transaction

    def commit(self, change: Change) -> None:
        """Make a change.

        Raises:
            BudgetError: ``disk_limit_exceeded``.
            StorageError: it could not be stored. In either case the buffer is as before.
        """
        contents = self._contents
        self._make_room_for(change)
        old = contents.columns
        keep = np.ones(old.num_records, dtype=bool)
        keep[change.dead] = False
        leaves = self._leaving(change)
        leaving, pinned, lost = leaves.live, leaves.pinned, leaves.lost
        emptied = self._emptied(leaving, pinned, lost, receives=bool(len(change.bodies)))

        owner = owner_of(change.config, change.version, change.next_id)
        with _Writing(self, change.new, change.bodies, "pushed", owner) as writing:
            with self._index.writing(counted=not self._is_answer_alone(change)) as transaction:
                added = writing.note(transaction)
                columns = (old.kept(change.version, keep) if len(change.dead) else old).appended(
                    change.version, writing.rows
                )
                if len(change.rescored):
                    columns = columns.rescored(change.version, change.rescored, change.score, change.rank)
                # The database's CHECK refuses it too; this one says so in words.
                assert columns.bytes_used <= change.config.budget_bytes, "the plan is over the budget"
                staying = {id_ for id_ in contents.states if id_ not in {state.id for state in emptied}}
                dead = np.isin(leaving["segment"], list(staying))
                transaction.insert_deaths(
                    self.config.id,
                    {name: values[dead] for name, values in leaving.items()},
                    change.died[dead],
                )
                orphaned = transaction.drop_segments(self.config.id, emptied)
                unreadable = [*leaving["exemplar_id"][~pinned].tolist(), *lost["exemplar_id"].tolist()]
                counts = self._write_small_rows(transaction, change, unreadable)
                # Whichever way a budget goes, what is used must not be over it in between.
                grows = change.config.budget_bytes > self.config.budget_bytes
                if grows:
                    transaction.update_settings(change.config)
                if (change.version, change.next_id) != (old.version, self.next_id):
                    self._write_figures(transaction, old.version, columns, change.next_id)
                if not grows and change.config != self.config:
                    transaction.update_settings(change.config)
            writing.committed = True

        # Readers must find the segments of whatever columns they see.
        self._adopt_parts(writing.parts, added, "pushed")
        contents.columns = columns
        self.config, self.next_id = change.config, change.next_id
        _tally(contents.states, leaves)
        newly = {name: values[pinned] for name, values in leaving.items()}
        contents.pinned = contents.pinned.kept(~leaves.freed).joined(newly, change.died[pinned])
        _count(contents.states, "live", writing.rows)
        contents.classes |= change.classes
        for snapshot in change.dropped:
            contents.snapshots.pop(snapshot.name, None)
            contents.leases.pop(snapshot.name, None)
            contents.forget_view(snapshot.name)
        if change.taken is not None:
            contents.snapshots[change.taken.name] = change.taken
        contents.index_rows = counts
        self._forget(emptied, orphaned)
        contents.forget_selections()

    def _is_answer_alone(self, change: Change) -> bool:
        """Whether a change is the answer to a push of which nothing was kept."""
        same = (change.version, change.next_id, change.config) == (
            self._contents.columns.version,
            self.next_id,
            self.config,
        )
        parts: tuple[Sized, ...] = (change.bodies, change.dead, change.rescored, change.classes, change.dropped)
        return same and change.taken is None and not any(len(part) for part in parts)

    def _make_room_for(self, change: Change) -> None:
        # What only gives back room is always allowed, also where the index row that says so takes some.
        gives = not len(change.bodies) and (len(change.dead) or change.dropped)
        limit = max(change.config.disk_limit_bytes, self.config.disk_limit_bytes)
        reserve = self._moving_room() if len(change.bodies) else 0
        # Again and again: compaction fills the open segment, so that the change may have to seal it.
        while (needed := self._needed(change)) and self._taken(limit) + needed + reserve > limit and not gives:
            self.make_room(needed + reserve, limit)

    def _moving_room(self) -> int:
        """Bytes that pushes leave free: without room for a segment's records none can be rewritten any more."""
        return max(0, min(int(1.25 * self.segment_bytes * (1 + self._frame_overhead())), self.headroom // 4))

    def _needed(self, change: Change) -> int:
        """An upper bound of what a change adds to the disk."""
        lengths = change.new["length"].tolist()
        needed = 0
        if lengths:
            learner_bytes = sum(len(learner) + 4 for learner in set(self._contents.learner_ids(change.new)))
            num_parts = 2 + sum(lengths) // self.segment_bytes
            growing = self._contents.growing.get("pushed")
            needed += added_bytes(growing and growing.segment, lengths, learner_bytes, self.segment_bytes)
            needed += 2 * HEADER_DTYPE.itemsize * len(lengths)
            needed += num_parts * (ledger.SEGMENT_ROW + ledger.OPEN_ROW + 4 * learner_bytes)
        needed += ledger.DEATH_ROW * len(change.dead)
        needed += ledger.SCORE_ROW * 2 * len(change.rescored)
        needed += ledger.CLASS_ROW * len(change.classes)
        needed += sum(answer.num_bytes for answer in change.answers)
        needed += ledger.SNAPSHOT_ROW * (change.taken is not None)
        grown = len(change.config.description.encode()) - len(self.config.description.encode())
        return needed + max(0, ledger.LOOSE * grown)

    def _emptied(
        self, leaving: Arrays, pinned: NDArray[np.bool_], lost: Arrays, *, receives: bool
    ) -> list[SegmentState]:
        """Segments of which the buffer holds nothing after a change."""
        going: dict[int, int] = {}
        for ids in (leaving["segment"][~pinned], lost["segment"]):
            for id_, count in zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True):
                going[id_] = going.get(id_, 0) + count
        contents = self._contents
        growing = contents.growing.get("pushed")
        received = growing.id if receives and growing else None
        return [
            contents.states[id_]
            for id_, count in going.items()
            if contents.states[id_].held_records == count and id_ != received
        ]

    def _write_figures(self, transaction: Writing, old_version: int, columns: Columns, next_id: int) -> None:
        figures = (columns.version, next_id, columns.bytes_used, columns.num_records)
        transaction.update_figures(old_version, BufferEntry(self.config, *figures))

    def _write_small_rows(self, transaction: Writing, change: Change, gone: list[int]) -> ledger.IndexRows:
        """All rows but those of segments and deaths; returns what the ledger counts afterwards.

        Args:
            gone: ids of records that nobody can read after the change.
        """
        contents, buffer_id = self._contents, self.config.id
        before = contents.index_rows
        transaction.insert_classes(buffer_id, change.classes)
        snapshots = before.snapshots - sum(transaction.delete_snapshot(buffer_id, mark.name) for mark in change.dropped)
        if change.taken is not None:
            transaction.insert_snapshot(buffer_id, change.taken)
            snapshots += 1
        counts = replace(
            before,
            classes=before.classes + len(change.classes),
            snapshots=snapshots,
            scores=self._write_scores(transaction, change, gone),
            description_bytes=len(change.config.description.encode()),
        )
        if change.forgets_answers:
            counts = _forget_answers(transaction, buffer_id, counts, but_newest=_ANSWERS_KEPT)
        return self._write_answers(transaction, change.answers, counts) if change.answers else counts

    def _write_scores(self, transaction: Writing, change: Change, gone: list[int]) -> int:
        """Returns the rows of scores there are afterwards."""
        contents, buffer_id = self._contents, self.config.id
        count = contents.index_rows.scores
        versions = sorted(mark.version for mark in contents.marks if mark not in change.dropped)
        if len(change.rescored):
            old = contents.columns.take(change.rescored)
            count += transaction.rescore(buffer_id, change.version, old, change.score, change.rank, versions)
        if count and gone:
            count -= transaction.forget_scores(buffer_id, gone)
        if count and change.dropped:
            count -= transaction.prune_scores(buffer_id, versions)
        return count

    def _write_answers(
        self, transaction: Writing, answers: Sequence[Answer], counts: ledger.IndexRows
    ) -> ledger.IndexRows:
        """Keep answers, and forget old ones; returns what the ledger counts afterwards."""
        now, buffer_id = time.time(), self.config.id
        transaction.insert_answers(buffer_id, answers, now)
        num_bytes = sum(answer.num_bytes for answer in answers)
        counts = replace(counts, answers=counts.answers + len(answers), answer_bytes=counts.answer_bytes + num_bytes)
        kept_for = self._options.idempotency_seconds
        # All answers are looked at for it, so not with every push.
        if now - self._answers_looked_at > min(60.0, kept_for):
            self._answers_looked_at = now
            counts = _forget_answers(transaction, buffer_id, counts, older_than=now - kept_for)
        # What answers take is missing where garbage lies before it is worth moving records for it.
        share = self.headroom // 8
        if counts.answer_bytes > share and counts.answers > _ANSWERS_KEPT:
            # By half, as forgetting looks at all of them.
            fitting = counts.answers * share // (2 * counts.answer_bytes)
            counts = _forget_answers(transaction, buffer_id, counts, but_newest=max(_ANSWERS_KEPT, fitting))
        return counts

    def seal(self) -> None:
        """Make Zarr groups of open segments, as far as that leaves the disk limit room to rewrite segments.

        Raises:
            StorageError: one could not be sealed; it stays open.
        """
        contents, limit = self._contents, self.config.disk_limit_bytes
        for state in [state for state in contents.states.values() if not state.sealed]:
            with self._index.reading() as reading:
                open_ = reading.open_segment(state)
            needed = frame_bytes(open_.num_records, open_.learners)
            # Nothing is moved for it: an open segment serves as well, and a frame is not worth another's room.
            if self._taken(limit) + needed + self._moving_room() > limit:
                continue
            open_ = replace(open_, crc32=checksum.crc32(self._segments.bodies_of(open_)))
            part = self._segments.seal(open_, owner_of(self.config, contents.columns.version, self.next_id))
            try:
                with self._index.writing() as transaction:
                    transaction.write_part(self.config.id, state.id, part)
            except BaseException:
                self._recover([part])
                raise
            self._adopt_parts([part], [state.id], None)
            self._close(state.id)

    def drop(self) -> None:
        """Delete the buffer's rows, then the files that no other buffer shares."""
        stems = {state.stem for state in self._contents.states.values()}

        def gone(reading: Reading) -> list[str] | None:
            return None if reading.find_buffer(self.config.id) else sorted(stems - reading.known_stems(stems))

        self._segments.delete(self._index.make(lambda writing: writing.delete_buffer(self.config.id), gone))
        self._index.shrink()

    # The picture in memory

    def _adopt_parts(self, parts: Sequence[Part], ids: Sequence[int], purpose: Purpose | None) -> None:
        contents = self._contents
        for part, id_ in zip(parts, ids, strict=True):
            state = contents.states.get(id_)
            if state is None:
                state = SegmentState(id_, part.after.stem, 0, 0, False)
                contents.states[id_] = state
            state.file_bytes, state.num_records = part.file_bytes, part.after.num_records
            state.sealed = part.sealed
            state.open_bytes = 0 if part.sealed else state.open_bytes + part.open_bytes
            if purpose is not None:
                contents.growing[purpose] = Growing(id_, part.after)
                if part.full:
                    self._close(id_)

    def _close(self, segment_id: int) -> None:
        """Do not go on with a segment."""
        growing = self._contents.growing
        for purpose in [purpose for purpose, segment in growing.items() if segment.id == segment_id]:
            del growing[purpose]

    def _forget(self, states: Sequence[SegmentState], orphaned: Sequence[str]) -> None:
        self._contents.readers.leave(self._contents.states, [state.id for state in states])
        for state in states:
            self._close(state.id)
        self._segments.delete(orphaned)

    # When something fails

    def settle(self) -> None:
        """Find out what an earlier failure left, before anything is built on it.

        Raises:
            StorageError: it still cannot be found out.
        """
        if self._unsettled is None:
            return
        with self._index.reading() as reading:
            entry = reading.find_buffer(self.config.id)
            if entry is None:
                raise StorageError(f"buffer {self.config.name!r} is not in the index any more")
            before = {state.stem for state in self._contents.states.values()}
            undone = reading.not_noted(self._unsettled)
            self._segments.undo(undone)
            self._contents.load(reading.contents(self.config.id)[self.config.id], entry.version)
            self.config, self.next_id = entry.config, entry.next_exemplar_id
            gone = before - {state.stem for state in self._contents.states.values()}
            gone -= reading.known_stems(gone)
        # Of a change that was committed and did not come to that.
        self._segments.delete(gone - {part.after.stem for part in undone})
        # A file that was not written well is not gone on with.
        self._contents.growing.clear()
        self._unsettled = None

    def _recover(self, parts: list[Part]) -> None:
        self._unsettled = [*(self._unsettled or ()), *parts]
        try:
            self.settle()
        except (StorageError, SegmentGoneError):
            logger.exception("cannot tell whether a change of buffer %s was committed", self.config.name)


def _tally(states: Mapping[int, SegmentState], leaving: _Leaving) -> None:
    """Take records that leave out of what their segments hold."""
    _count(states, "live", leaving.live, -1)
    _count(states, "pinned", leaving.lost, -1)
    _count(states, "pinned", {name: values[leaving.pinned] for name, values in leaving.live.items()})


def _count(states: Mapping[int, SegmentState], kind: Literal["live", "pinned"], of: Arrays, sign: int = 1) -> None:
    """Add rows to what their segments hold, or with -1 take them off."""
    for id_, (count, total) in totals_by_segment(of["segment"], charge_of(of["length"])).items():
        state = states[id_]
        if kind == "live":
            state.live_records += sign * count
            state.live_bytes += sign * total
        else:
            state.pinned_records += sign * count
            state.pinned_bytes += sign * total


def _forget_answers(
    transaction: Writing,
    buffer_id: int,
    counts: ledger.IndexRows,
    *,
    older_than: float | None = None,
    but_newest: int | None = None,
) -> ledger.IndexRows:
    number, num_bytes = transaction.forget_answers(buffer_id, older_than=older_than, but_newest=but_newest)
    return replace(counts, answers=counts.answers - number, answer_bytes=counts.answer_bytes - num_bytes)


class _Writing:
    """Records on their way to disk: written on entry, taken back unless ``committed`` was set."""

    def __init__(
        self,
        commits: Commits,
        new: Arrays,
        bodies: Sequence[files.Buffer],
        purpose: Purpose,
        owner: Mapping[str, Any],
    ) -> None:
        self._commits = commits
        self._owner = owner
        self._purpose: Purpose = purpose
        self._growing = commits._contents.growing.get(purpose)
        self.rows = {name: values.copy() for name, values in new.items()}
        self._bodies = bodies
        self.parts: list[Part] = []
        self.committed = False

    def __enter__(self) -> _Writing:
        commits = self._commits
        if len(self._bodies):
            try:
                self.parts = commits._segments.append(
                    self._growing and self._growing.segment,
                    headers_of_rows(self.rows),
                    commits._contents.learner_ids(self.rows),
                    self._bodies,
                    segment_bytes=commits.segment_bytes,
                    owner=self._owner,
                )
            except StorageError:
                # What was not written well is not gone on with: a failed fsync may be reported once only.
                commits._contents.growing.pop(self._purpose, None)
                raise
        return self

    def note(self, transaction: Writing) -> list[int]:
        """Tell the index; returns the ids of the segments written to, and completes :attr:`rows`."""
        commits = self._commits
        ids = []
        for part in self.parts:
            known = self._growing.id if self._growing and part.before is not None else None
            id_ = transaction.write_part(commits.config.id, known, part)
            self.rows["segment"][part.first : part.last] = id_
            self.rows["offset"][part.first : part.last] = part.offsets
            ids.append(id_)
        return ids

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.committed and kind is not None:
            self._commits._recover(self.parts)
