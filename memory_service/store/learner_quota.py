"""Bytes of one learner, in all buffers of a store together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError
from memory_service.store.pure.columns import Columns, Learners
from memory_service.store.pure.state import State

Bytes = Mapping[str, int]
"""Charges of live records by learner."""


class Contents(Protocol):
    """What a buffer holds: :class:`memory_service.store.contents.Contents`."""

    @property
    def state(self) -> State: ...

    @property
    def learners(self) -> Learners: ...

    @property
    def dropped(self) -> bool: ...


@dataclass
class _Buffer:
    """What is known of one."""

    contents: Contents
    state: State | None = None
    """Of which ``held`` was counted."""
    held: Bytes = field(default_factory=dict)
    claimed: dict[str, int] = field(default_factory=dict)
    """What it comes to with pushes that are about to be written."""

    def count(self) -> Bytes:
        """What is held now."""
        state = self.contents.state
        if state is not self.state:
            columns = state.columns
            self.held = bytes_by_learner(columns["learner"], columns.charge, self.contents.learners.ids)
            self.state = state
        return self.held


class LearnerQuota:
    """The most bytes that records of one learner may be charged.

    What a change takes is claimed before it is written, so that pushes to several buffers at once do not exceed it
    together. Counted are records where they are held; those of a fork count in both.

    Args:
        limit: of each learner; None: as much as budgets have room for, and nothing is counted.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._buffers: dict[Contents, _Buffer] = {}

    @property
    def is_set(self) -> bool:
        return self._limit is not None

    def watch(self, contents: Contents) -> None:
        """Count a buffer from now on, whatever it holds already."""
        with self._lock:
            self._buffers[contents] = _Buffer(contents)

    def claim(self, contents: Contents, after: Bytes) -> None:
        """Claim what a buffer will hold, for the holder of its lock, until :meth:`release`.

        Raises:
            BudgetError: ``learner_quota_exceeded``: of a learner that comes to hold more there it is too much.
        """
        with self._lock:
            mine = self._buffers[contents]
            self._expect(after, mine)
            for learner_id, num_bytes in after.items():
                mine.claimed[learner_id] = max(num_bytes, mine.claimed.get(learner_id, 0))

    @contextmanager
    def claimed(
        self, contents: Contents, held: Callable[[], tuple[NDArray[np.uint32], NDArray[np.int64]]]
    ) -> Iterator[None]:
        """Around the writing of a change after which a buffer holds records of these learners and charges, ``(N,)``.
        Raises as :meth:`claim`."""
        try:
            if self.is_set:
                self.claim(contents, bytes_by_learner(*held(), contents.learners.ids))
            yield
        finally:
            self.release(contents)

    def release(self, contents: Contents) -> None:
        """What was claimed is written, or will not be."""
        with self._lock:
            self._buffers[contents].claimed.clear()

    def expect_room(self, new: Columns, learners: Learners) -> None:
        """What a new buffer is about to hold. Raises as :meth:`claim`."""
        if self._limit is not None:
            with self._lock:
                self._expect(bytes_by_learner(new["learner"], new.charge, learners.ids), None)

    def _expect(self, after: Bytes, mine: _Buffer | None) -> None:
        if self._limit is None:
            return
        self._buffers = {contents: of for contents, of in self._buffers.items() if not contents.dropped}
        before = {} if mine is None else mine.count()
        for learner_id, num_bytes in after.items():
            grows_by = num_bytes - before.get(learner_id, 0)
            if grows_by <= 0:
                # Less than it has may be more than it should have, where the limit was lowered.
                continue
            others = (other for other in self._buffers.values() if other is not mine)
            elsewhere = sum(max(other.count().get(learner_id, 0), other.claimed.get(learner_id, 0)) for other in others)
            if elsewhere + num_bytes > self._limit:
                raise BudgetError(
                    f"the records of learner {learner_id!r} would come to {elsewhere + num_bytes} bytes in all buffers "
                    f"together, and {self._limit} is the most of one learner: delete some, or have the limit raised",
                    code="learner_quota_exceeded",
                    requested_bytes=grows_by,
                    free_bytes=max(0, self._limit - elsewhere - num_bytes + grows_by),
                    limit=self._limit,
                )


def bytes_by_learner(codes: NDArray[np.uint32], charge: NDArray[np.integer], learner_ids: list[str]) -> Bytes:
    """Sums of charges, ``(N,)``, by learner.

    Args:
        codes: places of the learners' ids in ``learner_ids``, ``(N,)``.
    """
    # Exact: they are integers far below 2^53.
    sums = np.bincount(codes, weights=charge)
    return {learner_ids[code]: int(sums[code]) for code in np.flatnonzero(sums).tolist()}
