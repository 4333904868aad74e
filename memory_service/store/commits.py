"""Every change of a buffer: write its records, one transaction, then another state.

Whatever fails on the way, the buffer is as before. Called by the holder of the buffer's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from memory_format import BudgetError, StorageError
from memory_service.store.compactor import Compactor
from memory_service.store.contents import Contents
from memory_service.store.idempotency import LEAST_KEPT, KeptAnswers
from memory_service.store.index import phases, quotas
from memory_service.store.index.base import BufferEntry, Index, Reading, Writing
from memory_service.store.learner_quota import NO_ROWS, LearnerQuota
from memory_service.store.loading import Growing, Purpose
from memory_service.store.pure.change import Change, Leaving, Written
from memory_service.store.pure.ledger import IndexRows, all_name_bytes, store_share, words_bytes
from memory_service.store.pure.model import BufferConfig
from memory_service.store.pure.news import NOTHING_WRITTEN, Wrote
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.pure.visibility import shown_by
from memory_service.store.room import headroom, moving_room, needed, tidy_reserve
from memory_service.store.segments.appending import Part
from memory_service.store.segments.base import Segments
from memory_service.store.segments.layout import frame_bytes
from memory_service.store.segments.owner import owner_of
from memory_service.store.segments.readers import Lease, PinningLease
from memory_service.store.writer import InFlight, Writer, grown

logger = logging.getLogger(__name__)

_READ_SECONDS: Final = 1.0
"""For how long a change waits for readers that go at the pace of the disk."""


def discard(index: Index, segments: Segments, parts: Iterable[Part]) -> None:
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
    """Changes one buffer; ``growing`` are the open segments to go on with."""

    def __init__(self, contents: Contents, growing: dict[Purpose, Growing]) -> None:
        self._contents = contents
        self._index = contents.index
        self._options = contents.options
        self.writer = Writer(contents, growing)
        self.compactor = Compactor(contents, self.writer)
        self.learner_quota = LearnerQuota(contents)
        self.answers = KeptAnswers(contents.index, self._config.id, contents.options.idempotency_seconds)
        self.writer.on_reload = self.answers.changed_elsewhere

    @property
    def _config(self) -> BufferConfig:
        return self._contents.state.config

    # The transaction

    def commit(self, change: Change) -> None:
        """Make a change.

        Raises:
            BudgetError: ``disk_limit_exceeded``.
            StorageError: it could not be stored. In either case the buffer is as before.
        """
        self._make_room_for(change)
        before = self._contents.state
        owner = owner_of(change.config, change.version, change.next_id)
        with self.writer.write(change.new, change.bodies, "pushed", owner) as flight:
            with self._index.writing(counted=not before.is_answer_alone(change)) as transaction:
                after, orphaned = self._note(transaction, before, change, flight)
            flight.committed()
        self._contents.become(after)
        flight.noted()
        if change.removes:
            self.writer.forget(_gone(before, after), orphaned)

    def _note(
        self, transaction: Writing, before: State, change: Change, flight: InFlight
    ) -> tuple[State, Iterable[str]]:
        """Tell the index of a change; returns the state after it, and the stems of segments that nobody has then."""
        buffer_id = before.config.id
        leaving = before.leaving(change)
        segments = flight.note(transaction, buffer_id, before.segments)
        counts = self._note_small(transaction, before, change, leaving)
        written = Written(flight.new, segments, counts, self.writer.number_after(transaction))
        after = before.after(change, written, leaving)
        # The database's CHECK refuses it too; this one says so in words.
        assert after.columns.bytes_used <= change.config.budget_bytes, "the plan is over the budget"
        orphaned: Iterable[str] = ()
        if change.removes:
            gone = _gone(before, after)
            staying = ~np.isin(leaving.live["segment"], [segment.id for segment in gone])
            transaction.insert_deaths(buffer_id, leaving.live[staying], change.died[staying])
            orphaned = transaction.drop_segments(buffer_id, gone)
        if len(change.revised) or (change.removes and after.counts.revisions):
            after = self.writer.with_revisions(transaction, after, flight, change.revised)
        if change.config.most_bytes > before.config.most_bytes:
            quotas.claim_budget(transaction, self._options, change.config)
        # Whichever way a budget goes, what is used must not be over it in between.
        grows = change.config.budget_bytes > before.config.budget_bytes
        if grows:
            transaction.update_settings(change.config)
        if (change.version, change.next_id) != (before.version, before.next_id):
            figures = (after.version, after.next_id, after.columns.bytes_used, after.columns.num_records)
            transaction.update_figures(before.version, BufferEntry(change.config, *figures))
        if not grows and change.config != before.config:
            transaction.update_settings(change.config)
        wrote = Wrote(flight.new, [segment.id for segment in segments], flight.full)
        self.writer.tell(transaction, before, change, after, wrote)
        self.learner_quota.note(transaction, change.new, before.columns.take(change.dead))
        return after, orphaned

    def _note_small(self, transaction: Writing, before: State, change: Change, leaving: Leaving) -> IndexRows:
        """All rows but those of segments and deaths; returns what the ledger counts afterwards."""
        buffer_id = before.config.id
        transaction.insert_classes(buffer_id, change.classes)
        transaction.insert_names(buffer_id, change.names)
        words = before.words if change.config.vocabulary == before.config.vocabulary else None
        if words is not before.words:
            transaction.delete_words(buffer_id)
        if change.words is not None:
            transaction.insert_words(buffer_id, words := change.words)
        snapshots = before.counts.snapshots + (change.snapshot is not None)
        snapshots -= sum(transaction.delete_snapshot(buffer_id, mark.name) for mark in change.dropped)
        if change.snapshot is not None:
            transaction.insert_snapshot(buffer_id, change.snapshot)
        learners = before.counts.phases
        if change.joins is not None:
            who = change.joins
            phases.join(transaction, buffer_id, who.learner_id, who.phase, ended=who.ended)
            learners += 1
        if change.leaves is not None:
            learners -= phases.leave(transaction, buffer_id, change.leaves)
        transaction.lessen(buffer_id, change.less, before.pinned.columns.take(change.freed))
        counts = replace(
            before.counts,
            classes=before.counts.classes + len(change.classes),
            name_bytes=before.counts.name_bytes + all_name_bytes(change.names.values()),
            words_bytes=words_bytes(words),
            snapshots=snapshots,
            phases=learners,
            scores=_note_scores(transaction, before, change, leaving),
            description_bytes=len(change.config.description.encode()),
        )
        if change.forgets_answers:
            counts = self.answers.forget(transaction, counts, but_newest=LEAST_KEPT)
        if change.answers:
            counts = self.answers.keep(transaction, change.answers, counts, headroom(before.config))
        return counts

    # Room on the disk

    def _make_room_for(self, change: Change) -> None:
        # What only gives back room is always allowed, also where the index row that says so takes some.
        gives = not len(change.bodies) and change.removes
        limit = max(change.config.disk_limit_bytes, self._config.disk_limit_bytes)
        reserve = moving_room(self._config, self._options) if len(change.bodies) else 0
        learner_ids = self._contents.learner_ids(change.new)
        # Again and again: compaction fills the open segment, so that the change may have to seal it.
        while not gives:
            growing = self.writer.growing.get("pushed")
            more = needed(change, self._config, self._options, growing and growing.segment, learner_ids)
            if not more or self.compactor.used(limit) + more + reserve <= limit:
                return
            self.make_room(more + reserve, limit)

    def make_room(self, needed: int, limit: int) -> None:
        """Rewrite segments until ``needed`` bytes more fit the disk limit.

        Raises:
            BudgetError: ``disk_limit_exceeded``.
            StorageError: a segment could not be rewritten.
        """
        while (before := self.compactor.used(limit)) + needed > limit:
            freed = self._forget_old_answers() or self.compactor.compact_one(limit)
            if (not freed or self.compactor.used(limit) >= before) and not self._end_lease():
                free = max(0, limit - self.compactor.used(limit))
                pinned, held = self._contents.state.pinned_bytes, self._contents.readers.held_bytes()
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

    def _forget_old_answers(self) -> bool:
        """Answers to pushes go before records have to: all but the newest."""
        state = self._contents.state
        if state.counts.answers <= LEAST_KEPT:
            return False
        with self._index.writing() as transaction:
            counts = self.answers.forget(transaction, state.counts, but_newest=LEAST_KEPT)
            after = replace(state, counts=counts, number=self.writer.number_after(transaction))
            self.writer.tell(transaction, state, state.change(), after, NOTHING_WRITTEN)
        self._contents.become(after)
        return True

    def _end_lease(self, change: Change | None = None) -> bool:
        """Let go of what is kept for one answer on its way: of those that keep something from going, the one whose
        reader has taken nothing for the longest. What leases will keep of what a change to come takes out counts too.
        Returns whether anything went."""
        contents, state = self._contents, self._contents.state
        pinned, died = state.pinned.columns["exemplar_id"], state.pinned.died
        if change is not None:
            pinned = np.concatenate([pinned, state.columns["exemplar_id"][change.dead]])
            died = np.concatenate([died, change.died])
        shown = shown_by(pinned, died, list(state.snapshots.values()))
        pinning = [
            lease
            for lease in contents.leases.values()
            if not lease.ended and (shown_by(pinned, died, [lease.mark]) & ~shown).any()
        ]
        going = [] if change is None else _gone(state, self._foreseen(change))
        leases: list[Lease] = [*pinning, *contents.readers.in_the_way(going)]
        if not leases:
            # Whoever reads without one is done in a moment.
            return contents.readers.wait(_READ_SECONDS, going)
        lease = min(leases, key=lambda lease: lease.progressed)
        lease.end()
        if lease.ended:
            name = state.config.name
            logger.warning("an answer of buffer %s is cut short: a change needs the room of what it reads", name)
        if isinstance(lease, PinningLease):
            self.commit(contents.state.change(dropped=[lease.mark]))
        return True

    def commit_within(self, change: Change) -> None:
        """Make a change with a smaller disk limit that adds nothing, once everything fits it. Raises as :meth:`fit`."""
        while True:
            change = self.fit(change)
            # Who began to read meanwhile what the change takes out would keep it on the disk.
            with self._contents.readers.closed(_gone(self._contents.state, self._foreseen(change))):
                if self._used_after(change) <= change.config.disk_limit_bytes:
                    self.commit(change)
                    return

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
            used = self._used_after(change)
            while used > limit:
                before, moved = used, self.compactor.separate_one(change, self._foreseen(change))
                used = self._used_after(change)
                if not (moved and used < before):
                    if not self._end_lease(change):
                        break
                    used = self._used_after(change)
        finally:
            # What is left in it otherwise, where the change is not made, is not to grow on.
            self.writer.growing.pop("leaving", None)
        if used > limit:
            change = replace(change, forgets_answers=True)
            used = self._used_after(change)
        if used > limit:
            raise BudgetError(
                f"{used} bytes would be left on disk, the disk limit would be {limit}: delete snapshots, or give a "
                "larger disk_limit_bytes",
                code="disk_limit_exceeded",
                requested_bytes=used,
                disk_limit_bytes=limit,
                pinned_bytes=self._foreseen(change).pinned_bytes,
            )
        return change

    def _foreseen(self, change: Change) -> State:
        """The state after a change that adds nothing; scores may become fewer."""
        state = self._contents.state
        counts = replace(
            self.answers.counts_without(state.counts) if change.forgets_answers else state.counts,
            snapshots=state.counts.snapshots - len(change.dropped),
            description_bytes=len(change.config.description.encode()),
        )
        return state.after(change, Written(change.new, (), counts, state.number))

    def _used_after(self, change: Change) -> int:
        """At most the bytes on disk that count against the limit of a change, once it is made."""
        foreseen = self._foreseen(change)
        held = self._contents.readers.held_bytes(_gone(self._contents.state, foreseen))
        return foreseen.disk_bytes + store_share(change.config) + held

    def tidy(self, pushed_bytes: int) -> None:
        """Rewrite segments so that the next push finds room. Does not raise: nothing depends on it.

        A push pays for at most twice its own bytes and one segment, which bounds its pause.
        """
        limit = self._config.disk_limit_bytes
        reserve = tidy_reserve(self._config, self._options)
        paid = 0
        try:
            while self.compactor.used(limit) > limit - reserve and paid <= 2 * pushed_bytes:
                moved = self.compactor.compact_one(limit)
                if not moved:
                    return
                paid += moved
        except (StorageError, BudgetError):
            logger.exception("compaction of buffer %s failed; nothing is lost", self._config.name)

    # Whole segments, the whole buffer

    def seal(self) -> None:
        """Make Zarr groups of open segments, as far as that leaves the disk limit room to rewrite segments. Raises
        ``StorageError``: one could not be sealed; it stays open."""
        limit = self._config.disk_limit_bytes
        for segment in [segment for segment in self._contents.state.segments.values() if not segment.sealed]:
            with self._index.reading() as reading:
                open_ = reading.open_segment(segment)
            more = frame_bytes(open_.num_records, open_.learners) + moving_room(self._config, self._options)
            # Nothing is moved for it: an open segment serves as well, and a frame is not worth another's room.
            if self.compactor.used(limit) + more > limit:
                continue
            state = self._contents.state
            segments = self._contents.segments
            part = segments.seal(segments.with_crc(open_), owner_of(state.config, state.version, state.next_id))
            try:
                with self._index.writing() as transaction:
                    transaction.write_part(state.config.id, segment.id, part)
                    number = self.writer.number_after(transaction)
                    after = state.after_sealing(grown(segment, segment.id, part), number)
                    wrote = Wrote(NOTHING_WRITTEN.rows, [segment.id], [segment.id])
                    self.writer.tell(transaction, state, state.change(), after, wrote)
            except BaseException:
                self.writer.recover([part])
                raise
            self._contents.become(after)
            self.writer.close(segment.id)
            segments.noted([part])

    def drop(self) -> None:
        """Delete the buffer's rows, then the files that no other buffer shares."""
        buffer_id = self._config.id
        stems = {segment.stem for segment in self._contents.state.segments.values()}

        def gone(reading: Reading) -> Iterable[str] | None:
            return None if reading.find_buffer(buffer_id) else sorted(stems - reading.known_stems(stems))

        def delete(transaction: Writing) -> Iterable[str]:
            orphaned = transaction.delete_buffer(buffer_id)
            self.learner_quota.note(transaction, NO_ROWS, self._contents.state.columns)
            return orphaned

        self._contents.segments.delete(self._index.make(delete, gone))
        self._index.shrink()


def _gone(before: State, after: State) -> list[SegmentState]:
    """Segments of which the buffer holds nothing any more."""
    return [before.segments[id_] for id_ in sorted(before.segments.keys() - after.segments.keys())]


def _note_scores(transaction: Writing, before: State, change: Change, leaving: Leaving) -> int:
    """Returns the rows of scores there are afterwards."""
    buffer_id, count = before.config.id, before.counts.scores
    versions = sorted(mark.version for mark in before.marks if mark not in change.dropped)
    if len(change.rescored):
        old = before.columns.take(change.rescored)
        count += transaction.rescore(buffer_id, change.version, old, change.score, change.rank, versions)
    if count and (gone := leaving.ids):
        count -= transaction.forget_scores(buffer_id, gone)
    if count and change.dropped:
        count -= transaction.prune_scores(buffer_id, versions)
    return count
