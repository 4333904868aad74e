"""One buffer: a named set of records under one byte budget.

Changes happen one at a time, under the buffer's lock. Reads take no lock: they use whatever columns are
current, which never change under them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError, ConflictError, FormatError, NotFoundError, Record, StorageError, checksum
from memory_format.api.answers import BufferStats, DeleteResponse, Diff, UpdateResponse
from memory_format.record import count_parts, split_body, swap_text
from memory_format.wire import check_batch, frame_batch, read_batch, write_batch
from memory_service.store.admin import transfer
from memory_service.store.commits import Commits, segment_bytes
from memory_service.store.contents import Contents, SegmentCache
from memory_service.store.drawn import Drawn
from memory_service.store.forks import Fork
from memory_service.store.index.base import BufferEntry, BufferRows, Index
from memory_service.store.pure import eviction, sampler
from memory_service.store.pure import query as queries
from memory_service.store.pure import snapshots as marks
from memory_service.store.pure.columns import (
    COLUMN_DTYPES,
    Arrays,
    Columns,
    charge_of,
    headers_of_rows,
    rows_of_batch,
)
from memory_service.store.pure.model import BufferConfig, Options, PushAnswer, Snapshot, check_settings
from memory_service.store.pure.stats import stats
from memory_service.store.pushes import GroupPlan, Pending, PushQueue, candidates, digest_of
from memory_service.store.quota import Quota
from memory_service.store.segments.base import SegmentGoneError
from memory_service.store.segments.local import SegmentFiles
from memory_service.store.segments.readers import LeaseEndedError, PinningLease, Rest

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MOST_AT_HAND = 512
"""Records of a batch that is drawn without waiting: under a millisecond's work."""


def _does_not_fit(held: int, limit: int) -> BudgetError:
    return BudgetError(
        f"{held} bytes are kept or held by snapshots; the disk limit would be {limit}: delete snapshots, or give a "
        "larger disk_limit_bytes",
        code="disk_limit_exceeded",
        requested_bytes=held,
        disk_limit_bytes=limit,
    )


@dataclass(frozen=True)
class Row:
    """What is known of a record without its pixels and tokens."""

    header: np.void
    """Of ``HEADER_DTYPE``."""
    learner_id: str
    num_patches: int
    num_tokens: int
    charge: int


class Buffer:
    """One open buffer; :class:`~memory_service.store.store.Store` makes them.

    Wherever a method takes ``snapshot``, it reads what the buffer held when that was taken; None: what it holds
    now. It raises ``NotFoundError`` (``unknown_snapshot``) where there is none of that name.
    """

    def __init__(
        self,
        entry: BufferEntry,
        rows: BufferRows,
        index: Index,
        segments: SegmentFiles,
        options: Options,
        cache: SegmentCache,
        quota: Quota,
    ) -> None:
        self._quota = quota
        self._index = index
        self._segments = segments
        self._options = options
        self._lock = threading.Lock()
        self._tally_lock = threading.Lock()
        self._dropped = False
        self._pushes = 0
        self._samples = 0
        self.contents = Contents(entry.config.id, segments)
        self.contents.load(rows, entry.version, cache)
        self._commits = Commits(entry.config, entry.next_exemplar_id, index, segments, self.contents, options)
        self._queue = PushQueue(self._lock, self._commits, self.contents, self._check_alive)

    @property
    def config(self) -> BufferConfig:
        return self._commits.config

    @property
    def name(self) -> str:
        return self._commits.config.name

    # Changes

    def push(self, body: bytes, *, idempotency_key: str | None = None, dry_run: bool = False) -> PushAnswer:
        """Take in an Arrow batch: all of it is judged, and kept or not, in one step.

        Args:
            idempotency_key: names this push; with the same key and records it happens once.
            dry_run: change nothing, and answer what a push would be answered now, if there is room on disk.

        Raises:
            FormatError: the batch or one of its records is malformed.
            BudgetError: see :func:`memory_service.store.pure.eviction.plan`; ``disk_limit_exceeded``.
            ConflictError: ``idempotency_key_reused``.
            StorageError: it could not be stored. In every case nothing has changed.
        """
        # Outside the lock: the expensive part of a push needs nothing of the buffer.
        batch = read_batch(body, max_records=self._options.max_batch_records)
        check_batch(batch)
        rows_ = rows_of_batch(batch, self.contents.learners)
        digest = b"" if idempotency_key is None else digest_of(rows_, batch.learner_ids)
        push = Pending(rows_, batch.bodies, idempotency_key, digest)
        self._check_alive()
        if dry_run:
            return self._try(push)
        self._queue.submit(push)
        if push.error is not None:
            raise push.error
        assert push.answer is not None
        if not push.answer.replayed:
            with self._tally_lock:
                self._pushes += 1
        return push.answer

    def _try(self, push: Pending) -> PushAnswer:
        with self._changing():
            known = None if push.key is None else self._commits.known_answer(push.key, push.digest)
            return known or GroupPlan(self.contents, self.config, self._commits.next_id).take_in(push)

    def update(
        self,
        exemplar_ids: Sequence[int],
        *,
        scores: Sequence[float] | None = None,
        ranks: Sequence[int] | None = None,
        if_version: int | None = None,
    ) -> UpdateResponse:
        """Give records other scores or ranks.

        Args:
            exemplar_ids: which, each once. Those that the buffer no longer holds are passed over and named.
            scores, ranks: one for each id.
            if_version: only if the buffer is at this version.

        Raises:
            FormatError: ``invalid_request``: the lists differ in length, or an id comes twice.
            ConflictError: ``stale_version``.
            BudgetError, StorageError: as :meth:`push`.
        """
        given = [values for values in (scores, ranks) if values is not None]
        if not given or any(len(values) != len(exemplar_ids) for values in given):
            raise FormatError("as many scores, ranks or both as exemplar_ids are needed", code="invalid_request")
        ids = np.array(exemplar_ids, dtype=np.uint64)
        if len(np.unique(ids)) != len(ids):
            raise FormatError("an exemplar_id comes twice", code="invalid_request")
        with self._changing():
            self._expect_version(if_version)
            columns = self.contents.columns
            positions = columns.positions_of(ids)
            found = positions >= 0
            order = np.argsort(positions[found])
            positions = positions[found][order]
            taken = columns.take(positions)
            score = taken["score"] if scores is None else np.array(scores, np.float32)[found][order]
            rank = taken["rank"] if ranks is None else np.array(ranks, np.uint32)[found][order]
            if not np.isfinite(score).all():
                raise FormatError("scores must be finite numbers", code="invalid_request")
            changes = (score != taken["score"]) | (rank != taken["rank"])
            if changes.any():
                self._commits.commit(
                    replace(
                        self._commits.change(),
                        version=columns.version + 1,
                        rescored=positions[changes],
                        score=score[changes],
                        rank=rank[changes],
                    )
                )
            missing = tuple(int(id_) for id_ in ids[~found])
            return UpdateResponse(len(positions), missing, self.contents.columns.version)

    def delete(
        self, exemplar_ids: Iterable[int] | None = None, *, where: sampler.Filter | None = None
    ) -> DeleteResponse:
        """Delete records: those named, or those that match.

        Raises:
            NotFoundError: ``unknown_exemplar`` where one that is named is not held; nothing is deleted.
            StorageError: as :meth:`push`.
        """
        with self._changing():
            columns = self.contents.columns
            if exemplar_ids is not None:
                ids = np.unique(np.array(list(exemplar_ids), dtype=np.uint64))
                positions = columns.positions_of(ids)
                if (positions < 0).any():
                    raise self._no_exemplar(int(ids[positions < 0][0]))
            else:
                selection = self.contents.select(columns, where or sampler.EVERYTHING)
                positions = selection.at(np.arange(selection.num))
            deleted = tuple(columns["exemplar_id"][positions].tolist())
            if len(positions):
                version = columns.version + 1
                died = np.full(len(positions), version, np.uint64)
                self._commits.commit(replace(self._commits.change(), version=version, dead=positions, died=died))
                self._commits.tidy(0)
            return DeleteResponse(deleted, self.contents.columns.bytes_used, self.contents.columns.version)

    def configure(self, change: Callable[[BufferConfig], BufferConfig]) -> list[int]:
        """Change settings; returns the ids of the records that a smaller budget evicts.

        One change or none: settings, evictions and snapshots beyond a smaller retention are one transaction. Before it,
        segments are rewritten until everything will fit a smaller disk limit, which changes nothing that is held.

        Args:
            change: present settings -> those wanted; ``budget_bytes`` is worked out here.

        Raises:
            FormatError: ``invalid_budget``.
            BudgetError: ``budget_exceeded`` under ``reject``; ``disk_limit_exceeded`` where what is kept and
                what snapshots hold does not fit the disk limit.
            StorageError: as :meth:`push`.
        """
        with self._changing():
            contents, columns = self.contents, self.contents.columns
            config = change(self.config)
            budget_bytes = config.budget_for(len(contents.classes))
            config = check_settings(replace(config, budget_bytes=budget_bytes))
            everything = {name: columns[name] for name in COLUMN_DTYPES}
            keep = np.ones(columns.num_records, dtype=bool)
            if columns.bytes_used > budget_bytes:
                keep = eviction.plan(
                    config.eviction, candidates([everything], config), columns.num_records, budget_bytes
                )
            evicted: list[int] = columns["exemplar_id"][~keep].tolist()
            surplus = max(0, len(contents.snapshots) - (config.retain_snapshots or len(contents.snapshots)))
            if not evicted and not surplus and config == self.config:
                return evicted
            version = columns.version + bool(evicted)
            wanted = replace(
                self._commits.change(),
                version=version,
                config=config,
                dead=np.flatnonzero(~keep),
                died=np.full(len(evicted), version, np.uint64),
                dropped=marks.oldest(contents.snapshots, surplus),
            )
            with self._quota.claim(config):
                if config.disk_limit_bytes < self.config.disk_limit_bytes:
                    held = self._commits.held_after(wanted)
                    if held > config.disk_limit_bytes:
                        raise _does_not_fit(held, config.disk_limit_bytes)
                    wanted = self._commits.fit(wanted)
                self._commits.commit(wanted)
            self._commits.tidy(0)
            return evicted

    def drop(self) -> None:
        """Delete the buffer and all that it holds. What is being read elsewhere is still read to its end."""
        with self._changing():
            for lease in self.contents.leases.values():
                self._keep_rest(lease)
            self._commits.drop()
            self._dropped = True

    def _keep_rest(self, lease: PinningLease) -> None:
        """Hold the files that a lease reads from, for nothing else will keep them."""
        view = self._view(lease.mark.name)
        ids = np.unique(view["segment"])
        held = self.contents.hold(ids.tolist())
        if held is None:
            logger.warning("an export of buffer %s is cut short: it reads more files than can be held", self.name)
            lease.end()
        else:
            lease.rest = Rest(view, ids, held)

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
        marks.check_name(name)
        with self._changing():
            contents = self.contents
            known = contents.snapshots.get(name)
            if known is not None:
                if known.version == contents.columns.version:
                    return known, False
                raise ConflictError(
                    f"snapshot {name!r} was taken at version {known.version}, the buffer is at "
                    f"{contents.columns.version}; delete it or take another name",
                    code="snapshot_exists",
                    version=known.version,
                )
            columns = contents.columns
            taken = Snapshot(
                name=name,
                version=columns.version,
                next_exemplar_id=self._commits.next_id,
                num_records=columns.num_records,
                bytes_used=columns.bytes_used,
                created_at=time.time(),
                number=max((s.number for s in contents.snapshots.values()), default=0) + 1,
            )
            keep = self.config.retain_snapshots
            surplus = 0 if keep is None else max(0, len(contents.snapshots) + 1 - keep)
            # Both in one change: what fails halfway would leave one snapshot too many.
            change = replace(self._commits.change(), taken=taken, dropped=marks.oldest(contents.snapshots, surplus))
            self._commits.commit(change)
            if surplus:
                self._commits.tidy(0)
            return taken, True

    def snapshots(self) -> list[Snapshot]:
        """All of them, oldest first."""
        self._check_alive()
        return sorted(self.contents.snapshots.values(), key=lambda snapshot: snapshot.number)

    def page_of_snapshots(self, limit: int, cursor: str | None = None) -> tuple[list[Snapshot], str | None]:
        """The oldest snapshots, or those after a cursor, and the cursor of the next page, None at the end.

        Raises:
            FormatError: ``invalid_cursor``.
        """
        if cursor is not None and not re.fullmatch("[0-9]{1,19}", cursor):
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        after = 0 if cursor is None else int(cursor)
        found = [snapshot for snapshot in self.snapshots() if snapshot.number > after]
        return found[:limit], str(found[limit - 1].number) if len(found) > limit else None

    def snapshot(self, name: str) -> Snapshot:
        """Raises:
        NotFoundError: ``unknown_snapshot``.
        """
        self._check_alive()
        return self.contents.snapshot(name)

    def drop_snapshot(self, name: str) -> None:
        """Delete a snapshot, and the records that only it held.

        Raises:
            NotFoundError: ``unknown_snapshot``.
            StorageError: as :meth:`push`.
        """
        with self._changing():
            self._drop_snapshots([self.contents.snapshot(name)])

    def _drop_snapshots(self, gone: list[Snapshot]) -> None:
        self._commits.commit(replace(self._commits.change(), dropped=gone))
        self._commits.tidy(0)

    def diff(self, before: str, after: str | None) -> Diff:
        """What came and went between a snapshot and another, or now.

        Raises:
            NotFoundError: ``unknown_snapshot``.
        """
        with self._changing():
            return marks.diff(self._view(before), self._view(after))

    def fork_into(
        self, name: str, snapshot: str | None, disk_limit_bytes: int | None, description: str | None
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
                self.contents.snapshot(snapshot)
            config = replace(
                self.config,
                name=name,
                created_at=time.time(),
                description=self.config.description if description is None else description,
                given_disk_limit=self.config.given_disk_limit if disk_limit_bytes is None else disk_limit_bytes,
            )
            check_settings(config)
            # Only sealed segments never change again, and can be shared.
            self._commits.seal()
            num_bytes = segment_bytes(config, self._options)
            fork = Fork(self._index, self._segments, self.contents, self._view(snapshot), config, num_bytes)
            with self._quota.claim(config):
                return fork.make(self.config.id, self._commits.next_id)

    def export(self, snapshot: str | None = None) -> transfer.Export:
        """The buffer as one Zarr store in a ZIP, piece by piece: see :mod:`memory_service.store.admin.transfer`.

        What is read stays readable until the last piece or ``close()``, whatever is evicted meanwhile.

        Raises:
            NotFoundError: ``unknown_snapshot``.
            StorageError: a record is damaged; only when its piece is read.
        """
        # One step: a change in between may need the room, and end the lease before there is anything to read.
        with self._changing():
            lease = self._lease(snapshot)
            try:
                view, config = self._view(lease.mark.name), self.config
                described = transfer.describe(config, view.version, lease.mark, self.contents.classes)
            except BaseException:
                del self.contents.leases[lease.mark.name]
                raise
        try:
            read = partial(self._read_leased, lease)
            let_go = partial(self._end_lease, lease)
            return transfer.Export(view, self.contents.learners.ids, described, read, let_go, lease)
        except BaseException:
            self._end_lease(lease)
            raise

    def _read_leased(self, lease: PinningLease, positions: NDArray[np.int64]) -> memoryview:
        """Bodies of records that a lease shows.

        Raises:
            LeaseEndedError: a change needed the room.
        """
        if lease.ended:
            raise LeaseEndedError
        lease.progress()
        if lease.rest is None:
            try:
                # The view of the lease, for compaction may have moved what it shows.
                name = lease.mark.name
                return self._steadily(name, lambda columns: self.contents.read_bodies(columns.take(positions))[0])
            except NotFoundError:
                # The buffer was deleted meanwhile, or the lease has ended.
                if lease.rest is None:
                    raise LeaseEndedError from None
        return lease.rest.read(positions)

    def _end_lease(self, lease: PinningLease) -> None:
        with self._lock:
            lease.close()
            contents, name = self.contents, lease.mark.name
            if self._dropped or name not in contents.leases:
                return
            if len(contents.pinned.died) or contents.index_rows.scores:
                self._drop_snapshots([lease.mark])
            else:
                # Nothing was kept for it.
                del contents.leases[name]
                contents.forget_view(name)

    def _lease(self, snapshot: str | None) -> PinningLease:
        """Called with the lock."""
        columns = self.contents.columns
        mark = None if snapshot is None else self.contents.snapshot(snapshot)
        lease = Snapshot(
            name=f"#{uuid.uuid4().hex}",
            version=mark.version if mark else columns.version,
            next_exemplar_id=mark.next_exemplar_id if mark else self._commits.next_id,
            num_records=mark.num_records if mark else columns.num_records,
            bytes_used=mark.bytes_used if mark else columns.bytes_used,
            created_at=time.time(),
            number=0,
        )
        made = self.contents.leases[lease.name] = PinningLease(lease)
        return made

    # Reads

    def get(self, exemplar_id: int, *, snapshot: str | None = None) -> Record:
        """One record.

        Raises:
            NotFoundError: ``unknown_exemplar``.
            StorageError: it is damaged.
        """

        def read(columns: Columns) -> Record:
            position = columns.position_of(exemplar_id)
            if position is None:
                raise self._no_exemplar(exemplar_id)
            return self.records_at(columns, np.array([position]))[0]

        return self._steadily(snapshot, read)

    def query(self, query: queries.Query, *, snapshot: str | None = None) -> tuple[list[Row], str | None, int]:
        """A page of what is known of records, the next cursor, and the version of the buffer that they are of.

        Raises:
            FormatError: ``invalid_cursor``.
            StorageError: a segment cannot be read.
        """

        def read(columns: Columns) -> tuple[list[Row], str | None, int]:
            page = self._page(columns, query, None)
            taken = columns.take(page.positions)
            headers = headers_of_rows(taken)
            found = zip(headers, self.contents.learner_ids(taken), self.contents.read_prefixes(taken), strict=True)
            charges = charge_of(taken["length"]).tolist()
            listed = [
                Row(header, learner_id, *count_parts(header, prefix), charge)
                for (header, learner_id, prefix), charge in zip(found, charges, strict=True)
            ]
            return listed, page.next_cursor, columns.version

        return self._steadily(snapshot, read)

    def query_encoded(self, query: queries.Query, *, snapshot: str | None = None) -> tuple[memoryview, str | None, int]:
        """A page of whole records as an Arrow stream, the next cursor, and the version.

        Raises:
            FormatError: ``invalid_cursor``.
            StorageError: a record is damaged.
        """

        def read(columns: Columns) -> tuple[memoryview, str | None, int]:
            page = self._page(columns, query, self._options.max_response_bytes)
            taken = columns.take(page.positions)
            return self._encoded(taken), page.next_cursor, columns.version

        return self._steadily(snapshot, read)

    def sample(self, request: sampler.SampleRequest) -> tuple[memoryview, int]:
        """A batch in drawing order as an Arrow stream, and the version it was drawn from.

        Raises:
            NotFoundError: ``no_matching_exemplars``, ``unknown_snapshot``.
            ConflictError: ``stale_version``: the buffer is at another version than the one asked for.
            FormatError: ``invalid_query`` where more are asked for than there are; ``batch_too_large`` where the
                answer would be.
            StorageError: a record is damaged.
        """
        while True:
            with suppress(LeaseEndedError), self.draw(request) as drawn:
                while drawn.next_piece():
                    pass
                return drawn.stream, drawn.version

    def draw(self, request: sampler.SampleRequest, *, wait: bool = True) -> Drawn:
        """:meth:`sample`, to be sent while it is read. Raises as that does, but for damage not known yet, which the
        pieces show.

        Args:
            wait: for the disk, for locks and for more than a millisecond or so of work.

        Raises:
            BlockingIOError: without ``wait``, it takes one of those; nothing was drawn.
        """
        if wait:
            drawn = self._steadily(request.snapshot, lambda columns: self._sample_from(columns, request))
        else:
            drawn = self._sample_at_hand(request)
        with self._tally_lock:
            self._samples += 1
        return drawn

    def stats(self) -> BufferStats:
        with self._changing():
            return stats(
                self.config,
                self.contents,
                pushes=self._pushes,
                samples=self._samples,
                orphans=len(self._segments.orphans),
            )

    def records_at(self, columns: Columns, positions: NDArray[np.int64]) -> list[Record]:
        """Whole records at positions. Raises as :meth:`~memory_service.store.contents.Contents.read_bodies`."""
        taken = columns.take(positions)
        view, starts = self.contents.read_bodies(taken)
        ends = starts + taken["length"]
        parts = zip(
            headers_of_rows(taken), starts.tolist(), ends.tolist(), self.contents.learner_ids(taken), strict=True
        )
        return [split_body(header, view[start:end], learner_id) for header, start, end, learner_id in parts]

    def _page(self, columns: Columns, query: queries.Query, max_bytes: int | None) -> queries.Page:
        codes = self.contents.learners.known_codes(query.where.learner_id or ())
        return queries.run(columns, query, codes, max_bytes=max_bytes)

    def _encoded(self, taken: Arrays) -> memoryview:
        """Rows as an Arrow stream, into which their bodies are read where they lie."""
        stream, start = frame_batch(headers_of_rows(taken), self.contents.learner_ids(taken), taken["length"])
        self.contents.read_bodies(taken, stream[start:])
        return stream

    def _sample_at_hand(self, request: sampler.SampleRequest) -> Drawn:
        self._check_alive()
        columns = self._known_columns(request.snapshot)
        if (
            columns is None
            or request.repair_text > 0
            or request.batch_size > _MOST_AT_HAND
            or not self.contents.is_selected(columns, request)
        ):
            raise BlockingIOError("the batch is not at hand")
        try:
            return self._sample_from(columns, request, wait=False)
        except SegmentGoneError as error:
            raise BlockingIOError(f"segment {error} has moved") from error

    def _sample_from(self, columns: Columns, request: sampler.SampleRequest, *, wait: bool = True) -> Drawn:
        self._expect_version(request.version, columns)
        selection = self.contents.select(columns, request.where)
        drawn = sampler.draw(selection, request, draw_key=self.config.draw_key, version=columns.version)
        taken = columns.take(drawn.positions)
        num_bytes = int(charge_of(taken["length"]).sum())
        limit = self._options.max_response_bytes
        if num_bytes > limit:
            raise FormatError(
                f"the batch would be {num_bytes} bytes, at most {limit} are given at once; ask for fewer",
                code="batch_too_large",
                requested_bytes=num_bytes,
                limit=limit,
            )
        swapped = np.flatnonzero(drawn.text_from != drawn.positions)
        if len(swapped):
            donors = columns.take(drawn.text_from[swapped])
            return Drawn(columns.version, self._encoded_swapped(taken, swapped, donors))
        held = self.contents.hold_bodies(taken, wait=wait)
        if held is None:
            if not wait:
                raise BlockingIOError("the batch is from more segments than can be held")
            return Drawn(columns.version, self._encoded(taken))
        try:
            stream, start = frame_batch(headers_of_rows(taken), self.contents.learner_ids(taken), taken["length"])
        except BaseException:
            held[0].close()
            raise
        return Drawn(columns.version, stream, start, *held)

    def _encoded_swapped(self, taken: Arrays, swapped: NDArray[np.int64], donors: Arrays) -> memoryview:
        """Rows as an Arrow stream, some of them with another record's text."""
        view, starts = self.contents.read_bodies(taken)
        bodies: list[bytes | memoryview] = [
            view[start:end] for start, end in zip(starts.tolist(), (starts + taken["length"]).tolist(), strict=True)
        ]
        headers, donor_headers = headers_of_rows(taken), headers_of_rows(donors)
        donor_view, donor_starts = self.contents.read_bodies(donors)
        for number, place in enumerate(swapped.tolist()):
            start = int(donor_starts[number])
            text = donor_view[start : start + int(donors["length"][number])]
            length, changed = swap_text(headers[place], bodies[place], donor_headers[number], text)
            bodies[place] = changed
            headers["text_length"][place] = length
            headers["crc32"][place] = checksum.crc32(changed)
        lengths = np.array([len(part) for part in bodies], dtype=np.int64)
        return write_batch(headers, self.contents.learner_ids(taken), b"".join(bodies), lengths)

    # How

    def _known_columns(self, snapshot: str | None) -> Columns | None:
        """The columns to read, where no lock is needed for them."""
        return self.contents.columns if snapshot is None else self.contents.known_view(snapshot)

    def _view(self, snapshot: str | None) -> Columns:
        """The columns to read. For the holder of the buffer's lock."""
        if snapshot is None:
            return self.contents.columns
        return self.contents.view(snapshot, self._read_scores)

    def _read_scores(self, version: int) -> Arrays:
        with self._index.reading() as reading:
            return reading.scores_at(self.config.id, version)

    def _steadily(self, snapshot: str | None, read: Callable[[Columns], T]) -> T:
        """Read without a lock; once more under it where a segment was rewritten or removed meanwhile."""
        self._check_alive()
        columns = self._known_columns(snapshot)
        if columns is not None:
            try:
                return read(columns)
            except SegmentGoneError:
                pass
        with self._changing():
            try:
                return read(self._view(snapshot))
            except SegmentGoneError as error:
                raise StorageError(f"segment {error} is missing from the store") from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The buffer's lock, with nothing of an earlier failure left."""
        with self._lock:
            self._check_alive()
            self._commits.settle()
            yield

    def _expect_version(self, version: int | None, columns: Columns | None = None) -> None:
        found = (columns or self.contents.columns).version
        if version is not None and version != found:
            raise ConflictError(
                f"the buffer is at version {found}, {version} was asked for",
                code="stale_version",
                version=found,
                expected_version=version,
            )

    def _check_alive(self) -> None:
        if self._dropped:
            raise NotFoundError(f"there is no buffer {self.name!r}", code="unknown_buffer")

    def _no_exemplar(self, exemplar_id: int) -> NotFoundError:
        return NotFoundError(
            f"buffer {self.name!r} holds no exemplar {exemplar_id}; was it evicted?", code="unknown_exemplar"
        )
