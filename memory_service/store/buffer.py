"""One buffer: a named set of records under one byte budget.

Changes happen one at a time, under the buffer's lock: each is worked out from the present state
(:mod:`~memory_service.store.changes`, :mod:`~memory_service.store.pushes`) and then made
(:mod:`~memory_service.store.commits`). Reads take no lock (:mod:`~memory_service.store.steady`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from memory_format import BudgetError, vocabulary_fingerprint
from memory_format.api.answers import BufferStats, ClassesNamed, DeleteResponse, Diff, UpdateResponse
from memory_format.api.forms import ExportForm
from memory_format.revise import NewArray
from memory_format.wire import check_batch, read_batch
from memory_service.store import changes, updates
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.decoding import decoders
from memory_service.store.draws import expect_version
from memory_service.store.exports import Exports
from memory_service.store.forks import Fork, settings_of_fork
from memory_service.store.index.base import BufferEntry, BufferRows, Index
from memory_service.store.loading import SealedSegments, growing_of, load
from memory_service.store.phases import Phases
from memory_service.store.pure.change import PushKey
from memory_service.store.pure.columns import ROW_DTYPE, Learners, rows_of_batch
from memory_service.store.pure.fit import fitted
from memory_service.store.pure.model import BufferConfig, Options, PushAnswer, Snapshot, check_name
from memory_service.store.pure.naming import agreed
from memory_service.store.pure.selection import EVERYTHING, Filter
from memory_service.store.pure.state import State
from memory_service.store.pure.stats import diff, stats
from memory_service.store.pure.words import packed
from memory_service.store.pushes import Pending, PushQueue, digest_of
from memory_service.store.reads import Reads, no_exemplar
from memory_service.store.room import Quota
from memory_service.store.segments.base import Segments
from memory_service.store.transfer.export import Export
from memory_service.store.turns import Turns
from memory_service.store.updates import Update
from memory_service.store.wiping import Wiping


class Buffer(Reads):
    """One open buffer, to be read and changed; :class:`~memory_service.store.store.Store` makes them."""

    def __init__(
        self,
        entry: BufferEntry,
        rows: BufferRows,
        index: Index,
        segments: Segments,
        options: Options,
        sealed: SealedSegments,
        quota: Quota,
    ) -> None:
        learners = Learners()
        state = load(entry, rows, sealed, learners)
        contents = Contents(state, learners, index, segments, options)
        self._commits = Commits(contents, growing_of(rows, segments))
        self.turns = Turns(contents, self._commits.writer)
        self._changing = self.turns.changing
        super().__init__(contents, self._changing)
        self._quota = quota
        self._segments = segments
        self._queue = PushQueue(self.turns, contents, self._commits)
        self.phases = Phases(contents, self._commits, self._changing)
        self._exports = Exports(self, self._commits, self.turns)
        self.on_named: Callable[[BufferConfig, Mapping[int, str]], object] = lambda config, names: None
        """Told of all names of classes, where there are new ones, before that is answered."""

    @property
    def state(self) -> State:
        """What it holds now."""
        return self.contents.state

    @property
    def config(self) -> BufferConfig:
        return self.contents.state.config

    @property
    def name(self) -> str:
        return self.contents.state.config.name

    # Changes

    def push(
        self,
        body: bytes,
        *,
        idempotency_key: str | None = None,
        vocabulary: str | None = None,
        dry_run: bool = False,
        only_learner: str | None = None,
        trusted: bool = False,
    ) -> PushAnswer:
        """Take in an Arrow batch: all of it is judged, and kept or not, in one step.

        Args:
            idempotency_key: names this push; with the same key and records it happens once. It belongs to the
                learner of the first record.
            vocabulary: fingerprint of that of the token ids.
            dry_run: change nothing, and answer what a push would be answered now, if there is room on disk.
            only_learner: whose all records must be; None = anybody's.
            trusted: decode no payload, whatever the options say.

        Raises:
            ForbiddenError: a record is another learner's than ``only_learner``.
            FormatError: the batch or one of its records is malformed.
            BudgetError: see :func:`memory_service.store.pure.eviction.plan`; ``disk_limit_exceeded``.
            ConflictError: ``idempotency_key_reused``; see :func:`memory_service.store.pure.fit.fitted`.
            MissingLibraryError: a payload is to be decoded, and cannot be here.
            StorageError: it could not be stored. In every case nothing has changed.
        """
        # Outside the lock: the expensive part of a push needs nothing of the buffer.
        batch = read_batch(body, max_records=self._options.max_batch_records)
        changes.expect_learner(batch.learner_ids, only_learner)
        check = decoders().check if self._options.decode_payloads and not trusted else check_batch
        check(batch, new=True)
        new = rows_of_batch(batch, self.contents.learners)
        digest = b"" if idempotency_key is None else digest_of(new, batch.learner_ids)
        key = None if idempotency_key is None else PushKey(next(iter(batch.learner_ids), ""), idempotency_key)
        push = Pending(new, batch.bodies, key, digest, vocabulary)
        self.contents.check_alive()
        if dry_run:
            return self._queue.try_out(push)
        self._queue.submit(push)
        if push.error is not None:
            raise push.error
        assert push.answer is not None
        answer = push.answer
        if not answer.replayed:
            self.tally.add(pushes=1, kept=answer.kept, rejected=answer.rejected, evicted=answer.evicted)
        return answer

    def update(
        self,
        exemplar_ids: Sequence[int],
        *,
        scores: Sequence[float] | None = None,
        ranks: Sequence[int] | None = None,
        arrays: Mapping[str, NewArray] | None = None,
        if_revisions: Sequence[int] | None = None,
        if_version: int | None = None,
        only_learner: str | None = None,
    ) -> UpdateResponse:
        """Give records other scores, ranks or arrays.

        Args:
            exemplar_ids: which, each once. Those that are not held (any more) are passed over and named.
            scores, ranks, arrays: one for each.
            if_revisions: only if the arrays of each were replaced so often, or are those given already.
            if_version: only if the buffer is at this version.
            only_learner: whose all records must be; None = anybody's.

        Raises:
            ForbiddenError: a record is another learner's than ``only_learner``.
            ConflictError: ``stale_version``; this and others as :func:`updates.make`.
        """
        wanted = Update(exemplar_ids, scores, ranks, arrays, if_revisions)
        wanted.check()
        with self._changing():
            expect_version(if_version, self.state.version)
            ids = np.array(exemplar_ids, dtype=np.uint64)
            places = self.state.columns.stored_places(ids)
            places[np.isin(ids, np.fromiter(self.contents.leaving, np.uint64))] = -1
            changes.expect_own(self.state.columns, self.contents.learners, places[places >= 0], only_learner)
            return updates.make(self.contents, self._commits, self.tally, wanted, places)

    def delete(
        self,
        exemplar_ids: Iterable[int] | None = None,
        *,
        where: Filter | None = None,
        only_learner: str | None = None,
    ) -> DeleteResponse:
        """Delete records: those named, or those that match.

        Args:
            only_learner: whose all of them must be; None = anybody's.

        Raises:
            ForbiddenError: one is another learner's than ``only_learner``; nothing is deleted.
            NotFoundError: ``unknown_exemplar`` where one that is named is not held; nothing is deleted.
            StorageError: as :meth:`push`.
        """
        with self._changing():
            columns = self.state.columns
            if exemplar_ids is not None:
                ids = np.unique(np.array(list(exemplar_ids), dtype=np.uint64))
                positions = columns.stored_places(ids)
                if (positions < 0).any():
                    raise no_exemplar(self.name, int(ids[positions < 0][0]))
            else:
                selection = self.contents.select(columns.shown, where or EVERYTHING)
                positions = columns.stored_at(selection.at(np.arange(selection.num)))
            changes.expect_own(columns, self.contents.learners, positions, only_learner)
            if len(positions):
                self._commits.commit(changes.deletion(self.state, positions))
                self._commits.tidy(0)
            deleted = tuple(np.sort(columns.shown_ids[positions]).tolist())
            return DeleteResponse(deleted, self.state.columns.bytes_used, self.state.version)

    @contextmanager
    def wiping(self) -> Iterator[Wiping]:
        """What erases records of it, while nothing else changes it."""
        with self._changing():
            yield Wiping(self.contents, self._commits)

    def configure(self, change: Callable[[BufferConfig], BufferConfig], only_maker: str | None = None) -> list[int]:
        """Change settings; returns the ids of the records that a smaller budget evicts.

        One change or none: settings, evictions and snapshots beyond a smaller retention are one transaction. Before it,
        segments are rewritten until everything will fit a smaller disk limit, which changes nothing that is held.

        Args:
            change: present settings -> those wanted; ``budget_bytes`` is worked out here.
            only_maker: see :func:`~memory_service.store.changes.expect_made`; None = whoever made it.

        Raises:
            ForbiddenError: as that has it.
            FormatError: ``invalid_budget``.
            BudgetError: ``budget_exceeded`` under ``reject``; ``disk_limit_exceeded`` where what is kept and
                what snapshots hold does not fit the disk limit.
            StorageError: as :meth:`push`.
        """
        with self._changing():
            state = self.state
            changes.expect_made(state, self.contents.learners, only_maker)
            wanted = changes.configuring(state, change(state.config))
            if wanted is None:
                return []
            limit = wanted.config.disk_limit_bytes
            evicted: list[int] = np.sort(state.columns.shown_ids[wanted.dead]).tolist()
            with self._quota.claim(wanted.config):
                if limit < state.config.disk_limit_bytes:
                    held = state.held_after(wanted)
                    if held > limit:
                        raise BudgetError(
                            f"{held} bytes are kept or held by snapshots; the disk limit would be {limit}: delete "
                            "snapshots, or give a larger disk_limit_bytes",
                            code="disk_limit_exceeded",
                            requested_bytes=held,
                            disk_limit_bytes=limit,
                        )
                    self._commits.commit_within(wanted)
                else:
                    self._commits.commit(wanted)
            self.tally.add(evicted=len(evicted))
            self._commits.tidy(0)
            return evicted

    def name_classes(self, names: Sequence[str], class_ids: Sequence[int] | None = None) -> ClassesNamed:
        """The ids of classes by name; what is new is named in one step. Raises as
        :func:`memory_service.store.pure.naming.agreed`, and as :meth:`push`."""
        with self._changing():
            found, added = agreed(self.state.names, self.state.classes, names, class_ids)
            if added:
                self._commits.commit(self.state.change(names=added))
                self.on_named(self.config, self.state.names)
            return ClassesNamed(tuple(found), tuple(added.values()))

    def say_words(self, words: Sequence[str]) -> bool:
        """Keep the words of the vocabulary that the token ids are of, word of token id 0 first; whether they are new.
        Raises as :func:`memory_service.store.pure.fit.fitted`, and as :meth:`push`."""
        fingerprint = vocabulary_fingerprint(words)
        with self._changing():
            config = fitted(self.config, self.state.held, np.zeros(0, ROW_DTYPE), fingerprint)
            if self.state.words is not None:
                return False
            self._commits.commit(self.state.change(config=config, words=packed(words)))
            return True

    def drop(self, owner: str | None = None, only_maker: str | None = None) -> None:
        """Delete the buffer and all that it holds. What is being read elsewhere is still read to its end.

        Args:
            owner: only if it belongs to this run; None = whoever's it is.
            only_maker: as :meth:`configure`.

        Raises:
            ForbiddenError: as :meth:`configure`.
            ConflictError: ``other_owner``.
        """
        with self._changing():
            changes.expect_made(self.state, self.contents.learners, only_maker)
            changes.expect_owner(self.config, owner)
            self._exports.keep_files()
            self._commits.drop()
            self.contents.dropped = True

    def seal(self) -> None:
        """Make Zarr groups of open segments, so that anybody can read them. Raises as :meth:`push`."""
        with self._changing():
            self._commits.seal()

    # Snapshots

    def take_snapshot(self, name: str) -> tuple[Snapshot, bool]:
        """Name what the buffer holds now; one of that name and version is as good. Returns it, and whether it is
        new. Older ones go where the buffer's retention says so.

        Raises:
            FormatError: ``invalid_request``: the name will not do.
            ConflictError: ``snapshot_exists`` at another version.
            BudgetError, StorageError: as :meth:`push`.
        """
        check_name(name)
        with self._changing():
            change = changes.taking(self.state, name, time.time())
            if change is not None:
                self._commits.commit(change)
                if change.dropped:
                    self._commits.tidy(0)
            return self.state.snapshot(name), change is not None

    def snapshot(self, name: str) -> Snapshot:
        """One of them. Raises ``NotFoundError`` (``unknown_snapshot``)."""
        self.contents.check_alive()
        return self.contents.state.snapshot(name)

    def drop_snapshot(self, name: str, only_maker: str | None = None) -> None:
        """Delete a snapshot, and the records that only it held. ``only_maker``: as :meth:`configure`.

        Raises:
            ForbiddenError: as :meth:`configure`.
            NotFoundError: ``unknown_snapshot``.
            StorageError: as :meth:`push`.
        """
        with self._changing():
            changes.expect_made(self.state, self.contents.learners, only_maker)
            gone = self.state.snapshot(name)
            self._commits.commit(self.state.change(dropped=[gone]))
            self._commits.tidy(0)

    def diff(self, before: str, after: str | None) -> Diff:
        """What came and went between a snapshot and another, or now. Raises as :meth:`snapshot`."""
        with self._changing():
            shown = self.view(before).shown, self.view(after).shown
        return diff(*shown, self.state.names)

    def fork_into(
        self, name: str, snapshot: str | None, disk_limit_bytes: int | None, description: str | None, made_by: str = ""
    ) -> BufferEntry:
        """Make a fork in one transaction.

        It shares the sealed segments. What is in open ones is copied, and where the others do not fit the fork's disk
        limit, what it holds of those that have most to lose.

        Raises:
            NotFoundError: ``unknown_snapshot``.
            BudgetError, StorageError: as :meth:`push`.
        """
        with self._changing():
            if snapshot is not None:
                self.state.snapshot(snapshot)
            config = settings_of_fork(self.config, name, disk_limit_bytes, description, made_by)
            # Only sealed segments never change again, and can be shared.
            self._commits.seal()
            view = self.view(snapshot)
            self._commits.learner_quota.expect_room(view)
            fork = Fork(self.contents, view, config, self._commits.learner_quota)
            with self._quota.claim(config):
                return fork.make()

    # As a whole

    def bytes_by_learner(self) -> Mapping[str, int]:
        """What its records are charged, by learner."""
        return self._commits.learner_quota.held()

    def stats(self) -> BufferStats:
        """Figures of now."""
        # Of a state that nobody changes any more: to count a million records holds up no push.
        with self.turns.still():
            state, held_bytes = self.state, self.contents.readers.held_bytes()
        return stats(
            state,
            self.contents.learners.ids,
            held_bytes=held_bytes,
            pushes=self.tally.pushes,
            samples=self.tally.samples,
            orphans=len(self._segments.orphans),
        )

    def export(self, snapshot: str | None = None, form: ExportForm = "zarr", *, png: bool = False) -> Export:
        """The buffer as one file, piece by piece: :meth:`Exports.export`."""
        return self._exports.export(snapshot, form, png=png)
