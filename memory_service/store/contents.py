"""What a buffer holds, in memory: its columns, its segments, and how a row becomes a record again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format import Record
from memory_format.record import split_body
from memory_service.store import rows, sampler
from memory_service.store.columns import Arrays, Columns, Learners, headers_of_rows
from memory_service.store.compaction import SegmentState
from memory_service.store.segments import SegmentFiles, SegmentGoneError

_SELECTIONS_KEPT = 16


class Contents:
    """The live records of one buffer.

    Changed only by the holder of the buffer's lock. Readers take :attr:`columns` once and stay with it: it
    never changes under them, and a segment that was removed since shows as :class:`SegmentGoneError`.
    """

    def __init__(self, buffer_id: int, segments: SegmentFiles) -> None:
        self._buffer_id = buffer_id
        self._segments = segments
        self.learners = Learners()
        self.columns = Columns.empty(0)
        self.states: dict[int, SegmentState] = {}
        self._selections: tuple[int, dict[sampler.Filter, sampler.Selection]] = (-1, {})

    def load(self, connection: sa.Connection) -> None:
        """Take over what the index says."""
        self.columns, states = rows.load(connection, self._buffer_id, self.learners)
        self.states = {state.id: state for state in states}

    def adopt(self, columns: Columns, added: Sequence[SegmentState], removed: Sequence[SegmentState]) -> None:
        """Show readers what a transaction has committed, then remove the files that it no longer speaks
        of."""
        self.states.update((state.id, state) for state in added)
        self.columns = columns
        for state in removed:
            del self.states[state.id]
        self._segments.delete(state.name for state in removed)

    def read_records(self, columns: Columns, positions: NDArray[np.int64]) -> list[Record]:
        """Records at those positions, in that order; one that is asked for twice is read once.

        Raises:
            SegmentGoneError: a segment was rewritten or removed since ``columns`` was current.
            StorageError: a record is damaged.
        """
        unique, inverse = np.unique(positions, return_inverse=True)
        taken = columns.take(unique)
        headers = headers_of_rows(taken)
        learner_ids = self.learner_ids(taken)
        records = [
            split_body(header, body, learner_id)
            for header, body, learner_id in zip(headers, self.read_bodies(taken), learner_ids, strict=True)
        ]
        return [records[place] for place in inverse.tolist()]

    def read_bodies(self, taken: Arrays) -> list[bytes]:
        """Bodies of rows, in their order. Raises as :meth:`read_records`."""
        bodies: list[bytes] = [b""] * len(taken["segment"])
        if not bodies:
            return bodies
        order = np.argsort(taken["segment"], kind="stable")
        ids, starts = np.unique(taken["segment"][order], return_index=True)
        for segment_id, places in zip(ids.tolist(), np.split(order, starts[1:]), strict=True):
            state = self.states.get(segment_id)
            if state is None:
                raise SegmentGoneError(str(segment_id))
            offsets, lengths, crcs = (taken[name][places].tolist() for name in ("offset", "length", "crc32"))
            for place, body in zip(
                places.tolist(), self._segments.read(state.name, offsets, lengths, crcs), strict=True
            ):
                bodies[place] = body
        return bodies

    def learner_ids(self, taken: Mapping[str, NDArray[np.uint32]]) -> list[str]:
        return [self.learners.ids[code] for code in taken["learner"].tolist()]

    def select(self, columns: Columns, where: sampler.Filter) -> sampler.Selection:
        """The records of ``columns`` that match, remembered for as long as the buffer stays at that
        version."""
        version, kept = self._selections
        if version != columns.version:
            kept = {}
            self._selections = (columns.version, kept)
        found = kept.get(where)
        if found is None:
            found = sampler.select(columns, where, self.learners.known_codes(where.learner_id or ()))
            if len(kept) >= _SELECTIONS_KEPT:
                kept.clear()
            kept[where] = found
        return found
