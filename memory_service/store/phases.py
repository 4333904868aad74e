"""Who is in which phase: what learners of a buffer say of themselves, so that others can wait for them.

A new learner is a change of the buffer, as its row takes room on the disk. Where a learner that is known enters another
phase nothing else changes: that takes no lock, and is no change that anybody has to catch up with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from memory_format import ForbiddenError, FormatError
from memory_format.api.phases import LearnerPhase
from memory_format.header import LEARNER_ID_PATTERN
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.index import phases as rows


class Phases:
    """Of the learners of one buffer.

    Args:
        changing: holds the buffer's lock.
    """

    def __init__(
        self, contents: Contents, commits: Commits, changing: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._contents = contents
        self._commits = commits
        self._changing = changing

    @property
    def _buffer_id(self) -> int:
        return self._contents.state.config.id

    def page(self, limit: int, cursor: str | None = None) -> tuple[list[LearnerPhase], str | None]:
        """The first learners by id, or those behind a cursor, and the cursor of the next page, None at the end.

        Raises:
            FormatError: ``invalid_cursor``.
            NotFoundError: ``unknown_buffer``: it was deleted.
            StorageError: the index cannot be read.
        """
        if cursor is not None and not LEARNER_ID_PATTERN.fullmatch(cursor):
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        self._contents.check_alive()
        with self._contents.index.reading(alone=True) as reading:
            found = rows.page(reading, self._buffer_id, limit + 1, cursor or "")
        return found[:limit], found[limit - 1].learner_id if len(found) > limit else None

    def enter(
        self, learner_id: str, phase: int, *, ended: bool = False, only_learner: str | None = None
    ) -> tuple[LearnerPhase, bool]:
        """A learner is in a phase from now on. Returns that, and whether the learner is new. It may go back, as a run
        does that begins again; the same once more changes nothing.

        Args:
            ended: it has gone through all its phases.
            only_learner: who alone may be meant; None = anybody.

        Raises:
            ForbiddenError: it is another learner.
            BudgetError: ``disk_limit_exceeded``.
            NotFoundError: ``unknown_buffer``: it was deleted.
            StorageError: it could not be stored.
        """
        _expect(learner_id, only_learner)
        self._contents.check_alive()
        known = self._enter(learner_id, phase, ended)
        if known is not None:
            return known, False
        with self._changing():
            # Another request may have been faster.
            known = self._enter(learner_id, phase, ended)
            if known is not None:
                return known, False
            joins = LearnerPhase(learner_id, phase, ended, 0.0)
            self._commits.commit(self._contents.state.change(joins=joins))
            with self._contents.index.reading() as reading:
                return rows.find(reading, self._buffer_id, learner_id) or joins, True

    def _enter(self, learner_id: str, phase: int, ended: bool) -> LearnerPhase | None:
        # No record has to do with it.
        with self._contents.index.writing(counted=False) as transaction:
            return rows.enter(transaction, self._buffer_id, learner_id, phase, ended=ended)

    def leave(self, learner_id: str, *, only_learner: str | None = None) -> None:
        """Forget in which phase a learner is, if it has said so. Raises as :meth:`enter`."""
        _expect(learner_id, only_learner)
        with self._changing():
            with self._contents.index.reading() as reading:
                known = rows.find(reading, self._buffer_id, learner_id)
            if known is not None:
                self._commits.commit(self._contents.state.change(leaves=learner_id))


def _expect(learner_id: str, only_learner: str | None) -> None:
    if only_learner not in (None, learner_id):
        raise ForbiddenError(f"the key is for the learner {only_learner!r}, and this is of {learner_id!r}")
