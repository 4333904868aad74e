"""The statements that move rows in and out of the index. Each takes a connection inside the caller's
transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format import StorageError
from memory_format.record import HEADER_DTYPE
from memory_service.store.index import tables
from memory_service.store.index.sqlite import Index
from memory_service.store.pure import ledger
from memory_service.store.pure.columns import Arrays, Columns
from memory_service.store.pure.compaction import SegmentState
from memory_service.store.pure.ledger import IndexRows, open_row_bytes
from memory_service.store.pure.model import Budget, BufferConfig, Snapshot
from memory_service.store.segments.layout import BODY_AT
from memory_service.store.segments.local import OpenSegment, Part, SegmentFiles

logger = logging.getLogger(__name__)


def read_config(row: sa.Row[Any]) -> BufferConfig:
    """A row of ``buffers`` as a value."""
    in_samples = row.full_samples_per_class is not None
    budget = Budget(
        budget_bytes=None if in_samples else row.budget_bytes,
        full_samples_per_class=row.full_samples_per_class,
        full_sample_bytes=row.full_sample_bytes,
        num_classes=row.num_classes,
        max_budget_bytes=row.max_budget_bytes,
    )
    return BufferConfig(
        id=row.id,
        name=row.name,
        budget=budget,
        budget_bytes=row.budget_bytes,
        eviction=row.eviction,
        description=row.description,
        created_at=row.created_at,
        given_disk_limit=row.disk_limit_bytes,
        retain_snapshots=row.retain_snapshots,
        draw_key=row.draw_key,
    )


def insert_buffer(connection: sa.Connection, config: BufferConfig, **figures: int) -> sa.Row[Any]:
    """Make a buffer's row, empty unless ``figures`` say otherwise."""
    empty = {"version": 0, "bytes_used": 0, "num_records": 0, "next_exemplar_id": 1}
    values = settings_of(config) | {"created_at": config.created_at} | empty | figures
    return connection.execute(tables.buffers.insert().returning(tables.buffers), values).one()


def settings_of(config: BufferConfig) -> dict[str, Any]:
    """A buffer's settings as columns of ``buffers``, without ``id`` and ``created_at``."""
    budget = asdict(config.budget) | {"budget_bytes": config.budget_bytes}
    return budget | {
        "name": config.name,
        "disk_limit_bytes": config.given_disk_limit,
        "eviction": config.eviction,
        "retain_snapshots": config.retain_snapshots,
        "description": config.description,
        "draw_key": config.draw_key,
    }


Chunks = list[tuple[NDArray[np.void], list[str]]]
"""Headers of an open segment push by push, and the learner ids that were new to it."""

_SCORES: Final = np.dtype(
    [("buffer_id", "i8"), ("exemplar_id", "u8"), ("version", "i8"), ("score", "f4"), ("rank", "u4")]
)


@dataclass
class BufferRows:
    """What the index says of a buffer, beside its own row."""

    segments: list[SegmentState] = field(default_factory=list)
    """Their live and pinned parts not counted yet."""
    chunks: dict[int, Chunks] = field(default_factory=dict)
    """Of the open ones, by id."""
    deaths: dict[int, tuple[NDArray[np.uint64], NDArray[np.uint64]]] = field(default_factory=dict)
    """Segment id -> ids of the records that died in it, ascending, and the versions at which they did."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    classes: set[int] = field(default_factory=set)
    counts: IndexRows = field(default_factory=IndexRows)
    scores: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, _SCORES))
    """All that were changed after a push, in ascending order of ids and versions."""


def read_buffers(connection: sa.Connection, buffer_id: int | None = None) -> dict[int, BufferRows]:
    """Buffer id -> its rows: of one buffer, or of all in as many statements."""

    def of(table: sa.Table, *columns: Any) -> Any:
        return only(sa.select(table.c.buffer_id, *columns), table.c.buffer_id)

    def only(statement: Any, column: sa.Column[Any]) -> Any:
        return statement if buffer_id is None else statement.where(column == buffer_id)

    b, s, o, d, p = (
        table.c for table in (tables.buffers, tables.segments, tables.open_rows, tables.deaths, tables.pushes)
    )
    part = tables.buffer_segments.c
    found: dict[int, BufferRows] = {}
    for id_, description in connection.execute(only(sa.select(b.id, b.description), b.id)):
        found[id_] = BufferRows(counts=IndexRows(description_bytes=len(description.encode())))
    statement: Any = sa.select(part.buffer_id, s.id, s.stem, s.file_bytes, s.num_records, s.sealed)
    statement = statement.join(tables.buffer_segments, part.segment_id == s.id)
    for owner, *values in connection.execute(only(statement, part.buffer_id)):
        found[owner].segments.append(SegmentState(*values))
    statement = sa.select(part.buffer_id, o.segment_id, o.headers, o.learners)
    statement = statement.join(tables.buffer_segments, part.segment_id == o.segment_id).order_by(o.segment_id, o.first)
    for owner, segment_id, headers, learners in connection.execute(only(statement, part.buffer_id)):
        chunk = (np.frombuffer(headers, HEADER_DTYPE), json.loads(learners))
        found[owner].chunks.setdefault(segment_id, []).append(chunk)
    # A string a segment: SQLAlchemy's rows, one a death, would take ten times as long to come.
    pair = d.exemplar_id.cast(sa.Text) + " " + d.version.cast(sa.Text)
    statement = of(tables.deaths, d.segment_id, sa.func.aggregate_strings(pair, " "))
    for owner, segment_id, pairs in connection.execute(statement.group_by(d.buffer_id, d.segment_id)):
        numbers = np.fromstring(pairs, np.uint64, sep=" ").reshape(-1, 2)
        ids, versions = numbers[np.argsort(numbers[:, 0])].T.copy()
        found[owner].deaths[segment_id] = (ids, versions)
    columns = [tables.snapshots.c[name] for name in Snapshot.__dataclass_fields__]
    for owner, *values in connection.execute(of(tables.snapshots, *columns).order_by(tables.snapshots.c.number)):
        snapshot = Snapshot(*values)
        found[owner].snapshots[snapshot.name] = snapshot
        found[owner].counts.snapshots += 1
    for owner, class_id in connection.execute(of(tables.classes, tables.classes.c.class_id)):
        found[owner].classes.add(class_id)
        found[owner].counts.classes += 1
    statement = of(tables.pushes, sa.func.count(), sa.func.sum(_answer_bytes())).group_by(p.buffer_id)
    for owner, number, total in connection.execute(statement):
        found[owner].counts.answers, found[owner].counts.answer_bytes = number, total
    scores = _scores(connection, buffer_id)
    owners, starts = np.unique(scores["buffer_id"], return_index=True)
    for owner, of_it in zip(owners.tolist(), np.split(scores, starts[1:]), strict=False):
        found[owner].scores, found[owner].counts.scores = of_it, len(of_it)
    for rows_ in found.values():
        for state in rows_.segments:
            chunks = rows_.chunks.get(state.id, [])
            state.open_bytes = sum(open_row_bytes(len(chunk), learners) for chunk, learners in chunks)
    return found


def open_segment(state: SegmentState, chunks: Chunks) -> OpenSegment:
    """What the index knows of an open segment; its CRC is the caller's to find."""
    learners = [learner for _, new in chunks for learner in new]
    headers = tuple(chunk for chunk, _ in chunks)
    return OpenSegment(state.stem, state.file_bytes, 0, headers, tuple(learners), sum(map(len, headers)))


def chunks_of(connection: sa.Connection, segment_id: int) -> Chunks:
    """Of an open segment."""
    r = tables.open_rows.c
    found = connection.execute(sa.select(tables.open_rows).where(r.segment_id == segment_id).order_by(r.first))
    return [(np.frombuffer(row.headers, HEADER_DTYPE), json.loads(row.learners)) for row in found]


def _scores(connection: sa.Connection, buffer_id: int | None) -> NDArray[np.void]:
    s = tables.scores.c
    statement = sa.select(s.buffer_id, s.exemplar_id, s.version, s.score, s.rank)
    if buffer_id is not None:
        statement = statement.where(s.buffer_id == buffer_id)
    ordered = connection.execute(statement.order_by(s.buffer_id, s.exemplar_id, s.version))
    return np.fromiter((tuple(row) for row in ordered), _SCORES)


def latest_scores(scores: NDArray[np.void]) -> Arrays:
    """Scores and ranks that differ from what segments say: ``exemplar_id``, ``score`` and ``rank``.

    Args:
        scores: see :class:`BufferRows`.
    """
    # The last of an id: they come in ascending order of versions.
    newest = scores[np.append(scores["exemplar_id"][1:] != scores["exemplar_id"][:-1], True)[: len(scores)]]
    return {name: newest[name].copy() for name in ("exemplar_id", "score", "rank")}


def scores_at(connection: sa.Connection, buffer_id: int, version: int) -> Arrays:
    """:func:`latest_scores` as they were at a version, only of records that were changed after it."""
    found = _scores(connection, buffer_id)
    changed_later = np.unique(found["exemplar_id"][found["version"] > version])
    return latest_scores(found[(found["version"] <= version) & np.isin(found["exemplar_id"], changed_later)])


def totals_by_segment(segment: NDArray[Any], charge: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """Segment id -> (records, bytes) of the rows given."""
    ids, inverse, counts = np.unique(segment, return_inverse=True, return_counts=True)
    totals = np.zeros(len(ids), dtype=np.int64)
    np.add.at(totals, inverse, charge)
    return {
        segment_id: (count, total)
        for segment_id, count, total in zip(ids.tolist(), counts.tolist(), totals.tolist(), strict=True)
    }


def write_part(connection: sa.Connection, buffer_id: int, segment_id: int | None, part: Part) -> int:
    """Note what was written to a segment; returns the segment's id."""
    after = part.after
    values = {"file_bytes": part.file_bytes, "num_records": after.num_records, "sealed": part.sealed}
    if segment_id is None:
        inserted = connection.execute(tables.segments.insert().values(stem=after.stem, **values)).inserted_primary_key
        assert inserted is not None
        segment_id = int(inserted[0])
        connection.execute(tables.intents.delete().where(tables.intents.c.stem == after.stem))
        connection.execute(tables.buffer_segments.insert(), {"buffer_id": buffer_id, "segment_id": segment_id})
    else:
        connection.execute(tables.segments.update().where(tables.segments.c.id == segment_id).values(values))
    if part.sealed:
        forget_open_rows(connection, segment_id)
    elif part.last > part.first:
        before = part.before.learners if part.before else ()
        learners = list(after.learners[len(before) :])
        row = {
            "segment_id": segment_id,
            "first": after.num_records - len(after.chunks[-1]),
            "headers": after.chunks[-1].tobytes(),
            "learners": json.dumps(learners),
        }
        connection.execute(tables.open_rows.insert(), row)
    return segment_id


def write_parts(connection: sa.Connection, buffer_id: int, parts: Iterable[Part]) -> None:
    """Note what was written to new segments of a new buffer."""
    ids: dict[str, int] = {}
    for part in parts:
        ids[part.after.stem] = write_part(connection, buffer_id, ids.get(part.after.stem), part)


def totals_of_parts(parts: Sequence[Part]) -> tuple[int, int]:
    """How many segments parts of new ones come to, and the bytes that those take once the parts are noted."""
    last = {part.after.stem: part for part in parts}
    open_bytes = sum(part_open_bytes(part) for part in parts if not last[part.after.stem].sealed)
    return len(last), open_bytes + sum(part.file_bytes for part in last.values())


def known_stems(connection: sa.Connection, stems: Collection[str]) -> set[str]:
    """Which of these the index speaks of."""
    s = tables.segments.c
    wanted = sorted(stems)
    found: set[str] = set()
    for first in range(0, len(wanted), 500):
        among = s.stem.in_(wanted[first : first + 500])
        found |= set(connection.execute(sa.select(s.stem).where(among)).scalars())
    return found


def discard(index_: Index, segments: SegmentFiles, parts: Iterable[Part]) -> None:
    """Remove new segments of a change that failed, unless it was committed all the same.

    Where that cannot be found out they stay, and the next start looks again.
    """
    stems = {part.after.stem for part in parts}
    if not stems:
        return
    try:
        with index_.read() as connection:
            stems -= known_stems(connection, stems)
    except StorageError:
        logger.exception("cannot tell whether a change was committed; its files stay")
        return
    segments.delete(stems)


def find_buffer(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(tables.buffers).where(tables.buffers.c.name == name)).one_or_none()


def forget_open_rows(connection: sa.Connection, segment_id: int) -> None:
    connection.execute(tables.open_rows.delete().where(tables.open_rows.c.segment_id == segment_id))


def part_open_bytes(part: Part) -> int:
    """What the row that :func:`write_part` makes for an open segment counts."""
    before = part.before.learners if part.before else ()
    return open_row_bytes(len(part.after.chunks[-1]), part.after.learners[len(before) :])


def insert_deaths(connection: sa.Connection, buffer_id: int, dead: Arrays, versions: NDArray[np.uint64]) -> None:
    """Note that rows have died."""
    parameters = [
        {"buffer_id": buffer_id, "segment_id": segment, "exemplar_id": id_, "version": version}
        for segment, id_, version in zip(
            dead["segment"].tolist(), dead["exemplar_id"].tolist(), versions.tolist(), strict=True
        )
    ]
    if parameters:
        connection.execute(tables.deaths.insert(), parameters)


def drop_segments(connection: sa.Connection, buffer_id: int, states: Iterable[SegmentState]) -> list[str]:
    """Take segments out of a buffer; returns the stems of those that no buffer consists of any more."""
    orphaned = []
    for state in states:
        for table in (tables.deaths, tables.buffer_segments):
            c = table.c
            connection.execute(table.delete().where(c.buffer_id == buffer_id, c.segment_id == state.id))
        b = tables.buffer_segments.c
        shared = connection.execute(sa.select(b.buffer_id).where(b.segment_id == state.id).limit(1)).first()
        if shared is None:
            forget_open_rows(connection, state.id)
            connection.execute(tables.segments.delete().where(tables.segments.c.id == state.id))
            connection.execute(tables.intents.insert(), {"stem": state.stem, "leaving": True})
            orphaned.append(state.stem)
    return orphaned


def write_scores(connection: sa.Connection, buffer_id: int, values: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of ``scores``: ``exemplar_id``, ``version``, ``score``, ``rank``."""
    if values:
        connection.execute(tables.scores.insert(), [{"buffer_id": buffer_id, **value} for value in values])


def scored(connection: sa.Connection, buffer_id: int, exemplar_ids: Sequence[int]) -> set[int]:
    """Which of these have a row of ``scores``."""
    s = tables.scores.c
    found: set[int] = set()
    for first in range(0, len(exemplar_ids), 500):
        among = s.exemplar_id.in_(exemplar_ids[first : first + 500])
        found |= set(connection.execute(sa.select(s.exemplar_id).where(s.buffer_id == buffer_id, among)).scalars())
    return found


def _answer_bytes() -> sa.ColumnElement[int]:
    """:func:`ledger.answer_bytes` of a row."""
    p = tables.pushes.c
    content = sa.func.length(p.idempotency_key, type_=sa.Integer) + sa.func.length(p.answer, type_=sa.Integer)
    content += ledger.ANSWER_COLUMNS
    pages = content // (ledger.OWN_PAGE - 4) + 1
    return sa.case(
        (content <= ledger.ANSWER_WITHIN, ledger.LOOSE * content),
        else_=ledger.LOOSE * ledger.ANSWER_WITHIN + ledger.OWN_PAGE * pages,
    )


def forget_answers(
    connection: sa.Connection, buffer_id: int, *, older_than: float | None = None, but_newest: int | None = None
) -> tuple[int, int]:
    """Delete answers to pushes: the old ones, or all but some. Returns how many, and their bytes."""
    condition = _old_answers(buffer_id, older_than, but_newest)
    number, num_bytes = _count_answers(connection, condition)
    if number:
        connection.execute(tables.pushes.delete().where(condition))
    return number, num_bytes


def answers_beyond(connection: sa.Connection, buffer_id: int, but_newest: int) -> tuple[int, int]:
    """How many answers :func:`forget_answers` would delete, and their bytes."""
    return _count_answers(connection, _old_answers(buffer_id, None, but_newest))


def _old_answers(buffer_id: int, older_than: float | None, but_newest: int | None) -> sa.ColumnElement[bool]:
    p = tables.pushes.c
    condition = p.buffer_id == buffer_id
    if older_than is not None:
        condition &= p.created_at < older_than
    if but_newest is not None:
        newest = sa.select(p.idempotency_key).where(p.buffer_id == buffer_id)
        newest = newest.order_by(p.created_at.desc(), p.idempotency_key).limit(but_newest)
        condition &= p.idempotency_key.not_in(newest)
    return condition


def _count_answers(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> tuple[int, int]:
    counted = sa.select(sa.func.count(), sa.func.sum(_answer_bytes())).where(condition)
    number, num_bytes = connection.execute(counted).one()
    return number, num_bytes or 0


def prune_scores(
    connection: sa.Connection, buffer_id: int, exemplar_ids: Iterable[int] | None, snapshot_versions: Sequence[int]
) -> int:
    """Delete rows of ``scores`` that no snapshot and not the buffer itself shows; returns how many.

    Args:
        exemplar_ids: look only at these; None: at all.
        snapshot_versions: of the snapshots there are, ascending.
    """
    s = tables.scores.c
    statement = sa.select(s.exemplar_id, s.version).where(s.buffer_id == buffer_id)
    if exemplar_ids is not None:
        wanted = list(exemplar_ids)
        found: list[Any] = []
        for first in range(0, len(wanted), 500):
            found += connection.execute(statement.where(s.exemplar_id.in_(wanted[first : first + 500]))).all()
    else:
        found = list(connection.execute(statement).all())
    versions: dict[int, list[int]] = {}
    for exemplar_id, version in found:
        versions.setdefault(exemplar_id, []).append(version)
    gone = []
    marks = np.array(snapshot_versions, dtype=np.int64)
    for exemplar_id, of_it in versions.items():
        of_it.sort()
        for version, following in pairwise(of_it):
            # Shown by a snapshot at or after it, and before the next.
            if not ((marks >= version) & (marks < following)).any():
                gone.append((exemplar_id, version))
    return _delete_scores(connection, buffer_id, gone)


def forget_scores(connection: sa.Connection, buffer_id: int, exemplar_ids: Iterable[int]) -> int:
    """Delete all rows of ``scores`` of records that nobody can read any more; returns how many."""
    s = tables.scores.c
    removed = 0
    wanted = list(exemplar_ids)
    for first in range(0, len(wanted), 500):
        ids = s.exemplar_id.in_(wanted[first : first + 500])
        removed += connection.execute(tables.scores.delete().where(s.buffer_id == buffer_id, ids)).rowcount
    return removed


def _delete_scores(connection: sa.Connection, buffer_id: int, keys: list[tuple[int, int]]) -> int:
    if not keys:
        return 0
    s = tables.scores.c
    statement = tables.scores.delete().where(
        s.buffer_id == buffer_id, s.exemplar_id == sa.bindparam("of"), s.version == sa.bindparam("at")
    )
    return int(connection.execute(statement, [{"of": of, "at": at} for of, at in keys]).rowcount)


def update_buffer(connection: sa.Connection, buffer_id: int, old_version: int, columns: Columns, next_id: int) -> None:
    """Write a buffer's figures.

    Raises:
        StorageError: the buffer is not at ``old_version``.
    """
    figures = (columns.version, columns.bytes_used, columns.num_records, next_id)
    names = ("to_version", "to_bytes_used", "to_num_records", "to_next_id")
    parameters = {"of": buffer_id, "from_version": old_version, **dict(zip(names, figures, strict=True))}
    if connection.execute(_UPDATE_FIGURES, parameters).rowcount != 1:
        raise StorageError(f"the index of buffer {buffer_id} changed behind the service's back")


# Made once: it is part of every change, and costs more to make than to run.
_UPDATE_FIGURES = (
    tables.buffers.update()
    .where(tables.buffers.c.id == sa.bindparam("of"), tables.buffers.c.version == sa.bindparam("from_version"))
    .values(
        version=sa.bindparam("to_version"),
        bytes_used=sa.bindparam("to_bytes_used"),
        num_records=sa.bindparam("to_num_records"),
        next_exemplar_id=sa.bindparam("to_next_id"),
    )
)


def update_settings(connection: sa.Connection, config: BufferConfig) -> None:
    """Write a buffer's settings."""
    this = tables.buffers.update().where(tables.buffers.c.id == config.id)
    connection.execute(this.values(settings_of(config)))


def delete_buffer(connection: sa.Connection, buffer_id: int) -> list[str]:
    """Delete a buffer's rows; returns the stems of segments that no buffer consists of any more."""
    orphaned = drop_segments(connection, buffer_id, read_buffers(connection, buffer_id)[buffer_id].segments)
    for table in tables.BUFFER_TABLES:
        connection.execute(table.delete().where(table.c.buffer_id == buffer_id))
    connection.execute(tables.buffers.delete().where(tables.buffers.c.id == buffer_id))
    return orphaned


def file_starts(headers: NDArray[np.void], end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Headers of an open segment -> where its bodies begin in the file, and their lengths."""
    starts = headers["offset"].astype(np.int64) + BODY_AT
    return starts, np.diff(np.append(starts, end))
