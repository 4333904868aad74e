"""Forks: buffers that start from what another one holds, and share its sealed segments."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from memory_format import BudgetError, StorageError
from memory_format.wire import Batch
from memory_service.store.commits import discard
from memory_service.store.contents import Contents
from memory_service.store.index import quotas
from memory_service.store.index.base import BufferEntry, Writing
from memory_service.store.learner_quota import LearnerQuota
from memory_service.store.loading import SealedSegments
from memory_service.store.pure.columns import Columns, Rows, headers_of_rows
from memory_service.store.pure.ledger import IndexRows, store_share
from memory_service.store.pure.model import BufferConfig, check_settings
from memory_service.store.pure.tallies import NOTHING, SegmentState, tallies_of, worth_rewriting
from memory_service.store.room import frame_overhead, segment_bytes, written_bytes
from memory_service.store.segments.appending import OpenSegment, Part, totals_of, without_sealed_bodies
from memory_service.store.segments.owner import owner_of

logger = logging.getLogger(__name__)


def settings_of_fork(
    source: BufferConfig, name: str, disk_limit_bytes: int | None, description: str | None, made_by: str
) -> BufferConfig:
    """Those of its source, but for what is given; it belongs to no run.

    Raises:
        FormatError: ``invalid_budget`` or ``invalid_request``.
    """
    config = replace(
        source,
        name=name,
        owner="",
        made_by=made_by,
        created_at=time.time(),
        description=source.description if description is None else description,
        given_disk_limit=source.given_disk_limit if disk_limit_bytes is None else disk_limit_bytes,
    )
    return check_settings(config)


class Fork:
    """A fork in the making. For the holder of the source's lock.

    Args:
        contents: of the source.
        view: of them, what the fork is to hold.
        config: of the fork.
        learner_quota: of the source.

    Raises:
        BudgetError: ``budget_exceeded``: ``view`` is of a time when the budget was larger.
    """

    def __init__(self, contents: Contents, view: Columns, config: BufferConfig, learner_quota: LearnerQuota) -> None:
        if view.bytes_used > config.budget_bytes:
            raise BudgetError(
                f"what the fork would hold takes {view.bytes_used} bytes, the budget is {config.budget_bytes} by now: "
                "give the buffer a larger one first",
                requested_bytes=view.bytes_used,
                budget_bytes=config.budget_bytes,
            )
        self._index = contents.index
        self._contents = contents
        self._view = view
        self._learner_quota = learner_quota
        self._config = config
        self._full = segment_bytes(config, contents.options)
        self._parts: list[Part] = []
        self._scored: set[int] = set()
        self._sealed = SealedSegments(contents.segments)
        self._state = contents.state
        held = tallies_of(view)
        of_it = [replace(self._state.segments[id_], live=tally, pinned=NOTHING) for id_, tally in held.items()]
        self._shared = [segment for segment in of_it if segment.sealed]
        self._copied = [segment for segment in of_it if not segment.sealed]

    def make(self) -> BufferEntry:
        """Write what is copied, and all rows in one transaction.

        Raises:
            BudgetError: ``disk_limit_exceeded``.
            StorageError: it could not be stored. In either case there is no fork.
        """
        if self._state.counts.scores:
            with self._index.reading() as reading:
                self._scored = reading.scored(self._state.config.id, self._view["exemplar_id"].tolist())
        self._copy_what_does_not_fit()
        try:
            self._copy()
            number, num_bytes = totals_of(self._parts)
            self._expect_fit(self._disk_bytes(number, num_bytes))
            entry = self._index.make(self._note, lambda reading: reading.find_buffer(self._config.name))
        except BaseException:
            discard(self._index, self._contents.segments, self._parts)
            raise
        self._contents.segments.noted(self._parts)
        return entry

    def _note(self, transaction: Writing) -> BufferEntry:
        entry = quotas.insert_buffer(
            transaction,
            self._contents.options,
            self._config,
            version=self._view.version,
            bytes_used=self._view.bytes_used,
            num_records=self._view.num_records,
            next_exemplar_id=self._state.next_id,
        )
        transaction.insert_origins(entry.config.id, self._state.config.id, self._state.next_id)
        transaction.write_parts(entry.config.id, self._parts, self._view.revised)
        self._share(transaction, entry.config.id)
        self._learner_quota.note(transaction, self._view)
        return entry

    def _copy_what_does_not_fit(self) -> None:
        while True:
            records = self._records_of(self._copied)
            lengths = records["length"].tolist()
            number, copied = written_bytes(None, lengths, self._contents.learner_ids(records), self._full)
            limit = self._config.disk_limit_bytes
            if self._disk_bytes(number, copied) <= limit:
                return
            worst = worth_rewriting(self._shared, limit, frame_overhead(self._full))
            if worst is None:
                # More than it is likely to be: that shows when it is written, where as much as this can be.
                self._expect_fit(self._disk_bytes(0, sum(lengths)))
                return
            self._shared.remove(worst)
            self._copied.append(worst)

    def _disk_bytes(self, number: int, num_bytes: int) -> int:
        """What the fork takes of its disk limit, with so many segments of its own, and bytes of theirs."""
        small = IndexRows(
            scores=len(self._scored),
            revisions=self._state.counts.revisions,
            classes=len(self._state.classes),
            name_bytes=self._state.counts.name_bytes,
            words_bytes=self._state.counts.words_bytes,
            description_bytes=len(self._config.description.encode()),
        )
        dead = sum(state.num_dead for state in self._shared)
        files = sum(state.file_bytes for state in self._shared)
        num_bytes += files + small.num_bytes(segments=len(self._shared) + number, dead=dead)
        return num_bytes + store_share(self._config)

    def _expect_fit(self, num_bytes: int) -> None:
        limit = self._config.disk_limit_bytes
        if num_bytes > limit:
            raise BudgetError(
                f"the fork would take {num_bytes} bytes on disk, its limit is {limit}: give a larger disk_limit_bytes",
                code="disk_limit_exceeded",
                requested_bytes=num_bytes,
                disk_limit_bytes=limit,
            )

    def _copy(self) -> None:
        growing: OpenSegment | None = None
        for state in list(self._copied):
            taken = self._records_of([state])
            try:
                bodies = self._contents.bodies(taken)
            except StorageError as error:
                if error.code != "corrupt_record" or not state.sealed:
                    raise
                logger.error("segment %s is shared as it is: %s", state.stem, error.message)
                self._copied.remove(state)
                self._shared.append(state)
                continue
            batch = Batch(headers_of_rows(taken), self._contents.learner_ids(taken), bodies)
            owner = owner_of(self._config, self._view.version, self._state.next_id)
            parts = self._contents.segments.append(growing, batch, segment_bytes=self._full, owner=owner)
            self._parts = without_sealed_bodies([*self._parts, *parts])
            growing = None if self._parts[-1].full else self._parts[-1].after

    def _records_of(self, states: Sequence[SegmentState]) -> Rows:
        ids = [state.id for state in states]
        return self._view.take(np.flatnonzero(np.isin(self._view["segment"], ids)))

    def _share(self, transaction: Writing, fork_id: int) -> None:
        """Make the rows by which the fork consists of its source's segments and holds what is shown of them."""
        view = self._view
        for state in self._shared:
            held = view["exemplar_id"][view["segment"] == state.id]
            stored = self._sealed.contents(state).headers["exemplar_id"]
            dead = stored[~np.isin(stored, held)].tolist()
            transaction.share_segment(fork_id, state.id, dead, self._state.config.id)
        if self._scored:
            scored = view.take(view.positions_of(np.array(sorted(self._scored), dtype=np.uint64)))
            transaction.rescore(fork_id, 0, scored, scored["score"], scored["rank"], ())
        transaction.insert_classes(fork_id, self._state.classes)
        transaction.insert_names(fork_id, self._state.names)
        if self._state.words is not None:
            transaction.insert_words(fork_id, self._state.words)
