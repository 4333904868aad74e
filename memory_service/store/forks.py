"""Forks: buffers that start from what another one holds, and share its sealed segments."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from memory_format import BudgetError, StorageError
from memory_format.record import HEADER_DTYPE
from memory_service.store.commits import frame_overhead, store_share
from memory_service.store.contents import Contents
from memory_service.store.index import statements, tables
from memory_service.store.index.sqlite import Index
from memory_service.store.pure import compaction, ledger
from memory_service.store.pure.columns import Arrays, Columns, headers_of_rows
from memory_service.store.pure.compaction import SegmentState
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import BufferConfig
from memory_service.store.segments.local import OpenSegment, Part, SegmentFiles, added_bytes
from memory_service.store.segments.owner import owner_of

logger = logging.getLogger(__name__)


class Fork:
    """A fork in the making. For the holder of the source's lock.

    Args:
        contents: of the source.
        view: of them, what the fork is to hold.
        config: of the fork.
        num_bytes: after which its segments are full.

    Raises:
        BudgetError: ``budget_exceeded``: ``view`` is of a time when the budget was larger.
    """

    def __init__(
        self,
        index_: Index,
        segments: SegmentFiles,
        contents: Contents,
        view: Columns,
        config: BufferConfig,
        num_bytes: int,
    ) -> None:
        if view.bytes_used > config.budget_bytes:
            raise BudgetError(
                f"what the fork would hold takes {view.bytes_used} bytes, the budget is {config.budget_bytes} by now: "
                "give the buffer a larger one first",
                requested_bytes=view.bytes_used,
                budget_bytes=config.budget_bytes,
            )
        self._index = index_
        self._segments = segments
        self._contents = contents
        self._view = view
        self._config = config
        self._num_bytes = num_bytes
        self._parts: list[Part] = []
        totals = statements.totals_by_segment(view["segment"], view.charge)
        states = [replace(contents.states[id_], pinned_records=0, pinned_bytes=0) for id_ in totals]
        for state in states:
            state.live_records, state.live_bytes = totals[state.id]
        self._shared = [state for state in states if state.sealed]
        self._copied = [state for state in states if not state.sealed]

    def make(self, source_id: int, next_id: int) -> sa.Row[Any]:
        """Write what is copied, and all rows in one transaction; returns the buffer's own.

        Raises:
            BudgetError: ``disk_limit_exceeded``.
            StorageError: it could not be stored. In either case there is no fork.
        """
        with self._index.read() as connection:
            self._scored = self._scored_of(connection, source_id)
        self._copy_what_does_not_fit()
        try:
            self._copy(next_id)
            number, num_bytes = statements.totals_of_parts(self._parts)
            self._expect_fit(self._disk_bytes(number, num_bytes))
            with self._index.write() as connection:
                row = statements.insert_buffer(
                    connection,
                    self._config,
                    version=self._view.version,
                    bytes_used=self._view.bytes_used,
                    num_records=self._view.num_records,
                    next_exemplar_id=next_id,
                )
                statements.write_parts(connection, row.id, self._parts)
                self._share(connection, row.id)
        except BaseException:
            statements.discard(self._index, self._segments, self._parts)
            raise
        return row

    def _copy_what_does_not_fit(self) -> None:
        while True:
            rows_ = self._rows_of(self._copied)
            lengths = rows_["length"].tolist()
            learner_bytes = sum(len(learner) + 4 for learner in set(self._contents.learner_ids(rows_)))
            number = 2 + sum(lengths) // self._num_bytes if lengths else 0
            copied = number * (ledger.OPEN_ROW + 4 * learner_bytes) + 2 * HEADER_DTYPE.itemsize * len(lengths)
            if lengths:
                copied += added_bytes(None, lengths, learner_bytes, self._num_bytes)
            limit = self._config.disk_limit_bytes
            if self._disk_bytes(number, copied) <= limit:
                return
            worst = compaction.choose(self._shared, limit, frame_overhead(self._num_bytes))
            if worst is None:
                # More than it is likely to be: that shows when it is written, where as much as this can be.
                self._expect_fit(self._disk_bytes(0, sum(lengths)))
                return
            self._shared.remove(worst)
            self._copied.append(worst)

    def _disk_bytes(self, number: int, num_bytes: int) -> int:
        """What the fork takes of its disk limit.

        Args:
            number, num_bytes: segments of its own, and their bytes.
        """
        small = IndexRows(
            scores=len(self._scored),
            classes=len(self._contents.classes),
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

    def _copy(self, next_id: int) -> None:
        growing: OpenSegment | None = None
        for state in list(self._copied):
            taken = self._rows_of([state])
            try:
                view, starts = self._contents.read_bodies(taken)
            except StorageError as error:
                if error.code != "corrupt_record" or not state.sealed:
                    raise
                logger.error("segment %s is shared as it is: %s", state.stem, error.message)
                self._copied.remove(state)
                self._shared.append(state)
                continue
            ends = (starts + taken["length"]).tolist()
            bodies = [view[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]
            self._parts += self._segments.append(
                growing,
                headers_of_rows(taken),
                self._contents.learner_ids(taken),
                bodies,
                segment_bytes=self._num_bytes,
                owner=owner_of(self._config, self._view.version, next_id),
            )
            growing = None if self._parts[-1].full else self._parts[-1].after

    def _rows_of(self, states: Sequence[SegmentState]) -> Arrays:
        ids = [state.id for state in states]
        return self._view.take(np.flatnonzero(np.isin(self._view["segment"], ids)))

    def _scored_of(self, connection: sa.Connection, source_id: int) -> set[int]:
        if not self._contents.index_rows.scores:
            return set()
        return statements.scored(connection, source_id, self._view["exemplar_id"].tolist())

    def _share(self, connection: sa.Connection, fork_id: int) -> None:
        """Make the rows by which the fork consists of its source's segments and holds what is shown of them."""
        view = self._view
        for state in self._shared:
            connection.execute(tables.buffer_segments.insert(), {"buffer_id": fork_id, "segment_id": state.id})
            held = view["exemplar_id"][view["segment"] == state.id]
            stored = self._contents.ids_in(state)
            dead = stored[~np.isin(stored, held)]
            values = {"buffer_id": fork_id, "segment_id": state.id, "version": 0}
            if len(dead):
                connection.execute(tables.deaths.insert(), [{**values, "exemplar_id": id_} for id_ in dead.tolist()])
        taken = view.take(view.positions_of(np.array(sorted(self._scored), dtype=np.uint64)))
        changed = zip(*(taken[name].tolist() for name in ("exemplar_id", "score", "rank")), strict=True)
        statements.write_scores(
            connection,
            fork_id,
            [{"exemplar_id": id_, "version": 0, "score": score, "rank": rank} for id_, score, rank in changed],
        )
        seen = [{"buffer_id": fork_id, "class_id": class_id} for class_id in sorted(self._contents.classes)]
        if seen:
            connection.execute(tables.classes.insert(), seen)
