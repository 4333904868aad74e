"""Which learner is in which phase, in SQL. Nothing of it is kept in memory: who asks is told what the index says."""

from __future__ import annotations

import sqlalchemy as sa

from memory_format.api.phases import LearnerPhase
from memory_service.store.index import tables
from memory_service.store.index.clock import seconds_now
from memory_service.store.index.reading import Reading
from memory_service.store.index.writing import Writing

_P = tables.phases.c
_COLUMNS = (_P.learner_id, _P.phase, _P.ended, _P.entered_at)


def page(reading: Reading, buffer_id: int, limit: int, after: str) -> list[LearnerPhase]:
    """The first learners of a buffer whose ids come behind ``after``, ascending."""
    statement = sa.select(*_COLUMNS).where(_P.buffer_id == buffer_id, _P.learner_id > after)
    rows = reading.connection.execute(statement.order_by(_P.learner_id).limit(limit))
    return [LearnerPhase(*row) for row in rows]


def find(reading: Reading, buffer_id: int, learner_id: str) -> LearnerPhase | None:
    """One of them."""
    row = reading.connection.execute(sa.select(*_COLUMNS).where(*_is(buffer_id, learner_id))).one_or_none()
    return None if row is None else LearnerPhase(*row)


def join(writing: Writing, buffer_id: int, learner_id: str, phase: int, *, ended: bool) -> None:
    """Note a learner that the buffer has not had."""
    values = {"buffer_id": buffer_id, "learner_id": learner_id, "phase": phase, "ended": ended}
    writing.connection.execute(tables.phases.insert().values(**values, entered_at=_now()))


def enter(writing: Writing, buffer_id: int, learner_id: str, phase: int, *, ended: bool) -> LearnerPhase | None:
    """Note another phase of a learner; the same again changes nothing. None: the buffer has no such learner."""
    other = (_P.phase != phase) | (_P.ended != ended)
    this = tables.phases.update().where(*_is(buffer_id, learner_id), other)
    writing.connection.execute(this.values(phase=phase, ended=ended, entered_at=_now()))
    return find(writing, buffer_id, learner_id)


def leave(writing: Writing, buffer_id: int, learner_id: str) -> int:
    """Forget a learner's phase. Returns how many there were, 0 or 1."""
    return int(writing.connection.execute(tables.phases.delete().where(*_is(buffer_id, learner_id))).rowcount)


def _is(buffer_id: int, learner_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return _P.buffer_id == buffer_id, _P.learner_id == learner_id


def _now() -> sa.ColumnElement[float]:
    return sa.cast(seconds_now(), sa.Double)
