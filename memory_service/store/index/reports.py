"""Reports of runs in a database that several services share, in SQL: what they are, :mod:`memory_service.store.runs`
knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.index.reading import Reading, unanswered
from memory_service.store.index.writing import Writing

Place = tuple[int, str]
"""Of a run among others: microseconds since 1970, and its id."""

AT_A_TIME: Final = 100


@dataclass(frozen=True)
class StoredReport:
    """A row."""

    run_id: str
    stored_at: int
    """Microseconds since 1970."""
    summary: str
    """What is to be known of it in a list, as JSON."""
    content: bytes


def newest(reading: Reading, before: Place | None) -> list[tuple[Place, str]]:
    """The newest reports, or those behind that place, :data:`AT_A_TIME` of them: places and summaries."""
    statement = sa.select(_R.stored_at, _R.run_id, _R.summary).order_by(_R.stored_at.desc(), _R.run_id)
    if before is not None:
        older = (_R.stored_at == before[0]) & (_R.run_id > before[1])
        statement = statement.where((_R.stored_at < before[0]) | older)
    return [((row[0], row[1]), row[2]) for row in reading.connection.execute(statement.limit(AT_A_TIME))]


def summary(reading: Reading, run_id: str) -> str | None:
    """Of a run, where there is a report of it."""
    return reading.connection.execute(sa.select(_R.summary).where(_R.run_id == run_id)).scalar_one_or_none()


def content(reading: Reading, run_id: str) -> bytes | None:
    """The report itself."""
    return reading.connection.execute(sa.select(_R.content).where(_R.run_id == run_id)).scalar_one_or_none()


def contents(reading: Reading) -> dict[str, bytes]:
    """All of them, by run."""
    return {row[0]: row[1] for row in reading.connection.execute(sa.select(_R.run_id, _R.content))}


def num_bytes(reading: Reading) -> int:
    """What all of them take."""
    return int(
        reading.connection.execute(sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(_R.content)), 0))).scalar_one()
    )


def put(writing: Writing, report: StoredReport) -> None:
    """Note a report, in the place of another of the same run."""
    remove(writing, report.run_id)
    writing.connection.execute(unanswered(tables.runs.insert()), asdict(report))


def remove(writing: Writing, run_id: str) -> None:
    """Forget the report of a run."""
    writing.connection.execute(unanswered(tables.runs.delete().where(_R.run_id == run_id)))


_R = tables.runs.c
