"""The most bytes that records of one learner may be charged in all buffers of a store together.

The index has the sums. What a change takes is looked up before anything is written for it, and added in its own
transaction, which fails where others were faster. Counted are live records where they are held; those of a fork count
in both. Without a limit nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError
from memory_service.store.contents import Contents
from memory_service.store.index import quotas
from memory_service.store.index.base import Writing
from memory_service.store.pure.columns import ROW_DTYPE, Columns, Rows, bytes_by_learner, charge_of

Bytes = Mapping[str, int]
"""Charges of live records by learner."""
Expect = Callable[[NDArray[np.uint32], NDArray[np.int64]], None]
"""Given the learners and charges of all that a buffer comes to hold, ``(N,)``; raises ``BudgetError``
(``learner_quota_exceeded``): of a learner that has more there than before, it is too much."""

NO_ROWS: Final = np.zeros(0, ROW_DTYPE)


class LearnerQuota:
    """That of one buffer's changes. For the holder of its lock."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._limit = contents.options.learner_bytes

    def expecting(self, learner_ids: Iterable[str]) -> Expect | None:
        """Looks what there is now, once; the answer expects that it has room for more of these learners. None: there
        is no limit. Raises ``StorageError``."""
        limit = self._limit
        if limit is None:
            return None
        ids, before = self._contents.learners.ids, self.held()
        with self._contents.index.reading(alone=True) as reading:
            total = quotas.learner_bytes(reading, set(learner_ids))

        def expect(codes: NDArray[np.uint32], charge: NDArray[np.int64]) -> None:
            for learner_id, num_bytes in bytes_by_learner(codes, charge, ids).items():
                had = before.get(learner_id, 0)
                # Less than it has may be more than it should have, where the limit was lowered.
                if num_bytes > had:
                    _expect(learner_id, num_bytes - had, max(total.get(learner_id, 0), had), limit)

        return expect

    def expect_room(self, new: Columns) -> None:
        """For a new buffer that is about to hold the same as this one, or less. Raises as :data:`Expect`."""
        if self._limit is not None:
            more = bytes_by_learner(new["learner"], new.charge, self._contents.learners.ids)
            with self._contents.index.reading(alone=True) as reading:
                total = quotas.learner_bytes(reading, more)
            for learner_id, num_bytes in more.items():
                _expect(learner_id, num_bytes, total.get(learner_id, 0), self._limit)

    def note(self, transaction: Writing, new: Columns | Rows, gone: Columns | Rows = NO_ROWS) -> None:
        """A transaction makes records live, and takes others out. Raises as :func:`quotas.charge_learners`."""
        if self._limit is not None:
            codes = np.concatenate([new["learner"], gone["learner"]])
            charge = np.concatenate([charge_of(new["length"]), -charge_of(gone["length"])])
            more = bytes_by_learner(codes, charge, self._contents.learners.ids)
            quotas.charge_learners(transaction, more, self._limit)

    def held(self) -> Bytes:
        """What the buffer holds."""
        columns = self._contents.state.columns
        return bytes_by_learner(columns["learner"], columns.charge, self._contents.learners.ids)


def _expect(learner_id: str, more: int, total: int, limit: int) -> None:
    if total + more > limit:
        raise BudgetError(
            f"the records of learner {learner_id!r} would come to {total + more} bytes in all buffers together, and "
            f"{limit} is the most of one learner: delete some, or have the limit raised",
            code="learner_quota_exceeded",
            requested_bytes=more,
            free_bytes=max(0, limit - total),
            limit=limit,
        )
