"""What is asked of the index, in SQL: it takes and gives the store's own types."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format.header import HEADER_DTYPE
from memory_service.store.index import tables
from memory_service.store.index.answers import Found, Wanted, answer_bytes, counted_answers, old_answers
from memory_service.store.index.clock import is_over, seconds_now
from memory_service.store.pure import ledger
from memory_service.store.pure.columns import Arrays
from memory_service.store.pure.erasing import TARGET_DTYPE, Targets
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.revised import NOTHING_REVISED, REVISED_DTYPE, Revised
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.pure.words import Words, stored
from memory_service.store.segments.appending import OpenSegment, Part
from memory_service.store.segments.base import KnownFiles

MOST_VALUES: Final = 500
"""In a list in SQL."""

_REVISED: Final = tuple(tables.revisions.c[name] for name in REVISED_DTYPE.names or ())
_SCORES: Final = np.dtype(
    [("buffer_id", "i8"), ("exemplar_id", "u8"), ("version", "i8"), ("score", "f4"), ("rank", "u4")]
)


@dataclass(frozen=True)
class BufferEntry:
    """A buffer's settings, and the counters that must agree with its records."""

    config: BufferConfig
    version: int
    next_exemplar_id: int
    bytes_used: int
    num_records: int


@dataclass
class BufferRows:
    """All that the index says of a buffer."""

    entry: BufferEntry
    number: int
    """Of the last change that this has seen: see :meth:`Index.writing`."""
    segments: list[SegmentState] = field(default_factory=list)
    """Their live and pinned parts not counted yet."""
    open_segments: dict[int, OpenSegment] = field(default_factory=dict)
    """Of those that are open, by id. Their CRC is 0: it follows from the file."""
    deaths: dict[int, tuple[NDArray[np.uint64], NDArray[np.uint64]]] = field(default_factory=dict)
    """Segment id -> ids of the records that died in it, ascending, and the versions at which they did."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    classes: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)
    """Class id -> name."""
    words: Words | None = None
    """Of its vocabulary, where they are known."""
    counts: ledger.IndexRows = field(default_factory=ledger.IndexRows)
    scores: Arrays = field(default_factory=dict)
    """Scores and ranks that were changed after a push: ``exemplar_id``, ``score`` and ``rank`` as they are now."""
    revised: Revised = field(default_factory=lambda: NOTHING_REVISED)
    """Of all records of its segments, dead ones too."""


class Reading:
    """A transaction that sees one state of the index throughout.

    Every method raises ``StorageError`` where the index cannot be read.

    Args:
        shared: whether numbers of changes are of one buffer each: see :attr:`Index.is_shared`.
    """

    def __init__(self, connection: sa.Connection, *, shared: bool = False) -> None:
        self.connection = connection
        self._shared = shared

    def buffers(self) -> list[BufferEntry]:
        """All of them."""
        return [entry_of(row) for row in self.connection.execute(sa.select(tables.buffers)).all()]

    def find_buffer(self, of: str | int) -> BufferEntry | None:
        """The buffer of that name or id."""
        column = tables.buffers.c.name if isinstance(of, str) else tables.buffers.c.id
        row = self.connection.execute(sa.select(tables.buffers).where(column == of)).one_or_none()
        return None if row is None else entry_of(row)

    def numbers(self, name: str | None = None) -> dict[str, tuple[int, int]]:
        """Name -> id and number of the last change, of one buffer or of all, where the index is shared."""
        b = tables.buffers.c
        statement = sa.select(b.name, b.id, b.changes)
        found = self.connection.execute(statement if name is None else statement.where(b.name == name))
        return {row.name: (row.id, row.changes) for row in found}

    def dead_uploads(self) -> list[str]:
        """Names of what was to be uploaded, or to go, and whose time has passed."""
        i = tables.intents.c
        return list(self.connection.execute(sa.select(i.stem).where(is_over())).scalars())

    def contents(self, buffer_id: int | None = None) -> dict[int, BufferRows]:
        """Buffer id -> its contents: of one buffer, or of all in as many statements."""
        contents, counts = self._read_buffers(buffer_id)
        self._read_segments(contents, buffer_id)
        columns = [tables.snapshots.c[name] for name in Snapshot.__dataclass_fields__]
        number = tables.snapshots.c.number
        for owner, *values in self._of(buffer_id, tables.snapshots, *columns, order_by=number):
            snapshot = Snapshot(*values)
            contents[owner].snapshots[snapshot.name] = snapshot
        n = tables.class_names.c
        for owner, class_id, name in self._of(buffer_id, tables.class_names, n.class_id, n.name):
            contents[owner].names[class_id] = name
        scores = self._scores(buffer_id)
        owners, starts = np.unique(scores["buffer_id"], return_index=True)
        for owner, of_it in zip(owners.tolist(), np.split(scores, starts[1:]), strict=False):
            contents[owner].scores = _latest(of_it)
            counts[owner]["scores"] = len(of_it)
        for id_, rows in contents.items():
            counts[id_]["revisions"] = len(rows.revised)
            numbers = {"snapshots": len(rows.snapshots), "classes": len(rows.classes)}
            numbers["name_bytes"] = ledger.all_name_bytes(rows.names.values())
            numbers["words_bytes"] = ledger.words_bytes(rows.words)
            rows.counts = ledger.IndexRows(**counts[id_], **numbers)
        return contents

    def _read_buffers(self, buffer_id: int | None) -> tuple[dict[int, BufferRows], dict[int, dict[str, int]]]:
        """What there is one of for a buffer, and beside it what the ledger counts."""
        b, p, c = tables.buffers.c, tables.pushes.c, tables.classes.c
        counted = sa.select(
            p.buffer_id, sa.func.count().label("answers"), sa.func.sum(answer_bytes()).label("num_bytes")
        )
        answers = _only(counted, p.buffer_id, buffer_id).group_by(p.buffer_id).subquery()
        learners = sa.select(sa.func.count()).where(tables.phases.c.buffer_id == b.id)
        # Numbers of all its rows, end to end: a statement of their own would be one more at each start.
        columns: list[sa.ColumnElement[str]] = [column.cast(sa.Text) for column in _REVISED]
        each = sa.func.aggregate_strings(functools.reduce(lambda one, next_: one + " " + next_, columns), " ")
        revised = sa.select(each).where(tables.revisions.c.buffer_id == b.id)
        class_ids = sa.select(sa.func.aggregate_strings(c.class_id.cast(sa.Text), " ")).where(c.buffer_id == b.id)
        statement = sa.select(
            tables.buffers,
            (b.changes if self._shared else sa.select(tables.store.c.changes).scalar_subquery()).label("number"),
            tables.vocabularies.c.words,
            class_ids.correlate(tables.buffers).scalar_subquery().label("class_ids"),
            learners.correlate(tables.buffers).scalar_subquery().label("learners"),
            revised.correlate(tables.buffers).scalar_subquery().label("revised"),
            answers.c.answers,
            answers.c.num_bytes,
        ).select_from(
            tables.buffers.outerjoin(tables.vocabularies).outerjoin(answers, answers.c.buffer_id == b.id),
        )
        contents: dict[int, BufferRows] = {}
        counts: dict[int, dict[str, int]] = {}
        for row in self.connection.execute(_only(statement, b.id, buffer_id)):
            classes = set(map(int, (row.class_ids or "").split()))
            words = None if row.words is None else stored(row.words)
            contents[row.id] = BufferRows(entry_of(row), row.number, classes=classes, words=words)
            if row.revised:
                contents[row.id].revised = _revised(row.revised)
            description_bytes = len(row.description.encode())
            counts[row.id] = {"description_bytes": description_bytes, "answers": row.answers or 0}
            counts[row.id]["phases"] = row.learners
            counts[row.id]["answer_bytes"] = row.num_bytes or 0
        return contents, counts

    def _read_segments(self, contents: dict[int, BufferRows], buffer_id: int | None) -> None:
        s, o, d, part = tables.segments.c, tables.open_rows.c, tables.deaths.c, tables.buffer_segments.c
        # Two strings a segment, both in the order in which rows are read: as SQLAlchemy's rows, one a death, they would
        # take ten times as long to come, and as one string of pairs half as long again. Once a segment only.
        ids, versions = (sa.func.aggregate_strings(column.cast(sa.Text), " ") for column in (d.exemplar_id, d.version))
        deaths = sa.select(ids + ";" + versions).where(d.buffer_id == part.buffer_id, d.segment_id == part.segment_id)
        deaths_once = sa.case(
            (sa.func.coalesce(o.first, 0) == 0, deaths.correlate(tables.buffer_segments).scalar_subquery())
        )
        statement: Any = sa.select(
            part.buffer_id, deaths_once, o.headers, o.learners, s.id, s.stem, s.file_bytes, s.num_records, s.sealed
        )
        joined = tables.buffer_segments.join(tables.segments)
        statement = statement.select_from(joined.outerjoin(tables.open_rows, o.segment_id == s.id))
        statement = _only(statement, part.buffer_id, buffer_id).order_by(part.buffer_id, s.id, o.first)
        chunks: dict[tuple[int, SegmentState], list[tuple[bytes, str]]] = {}
        for owner, died, headers, learners, *values in self.connection.execute(statement):
            of_it = chunks.setdefault((owner, SegmentState(*values)), [])
            if headers is not None:
                of_it.append((headers, learners))
            if died is not None:
                exemplar_ids, at = (np.fromstring(numbers, np.uint64, sep=" ") for numbers in died.split(";"))
                order = np.argsort(exemplar_ids)
                contents[owner].deaths[values[0]] = (exemplar_ids[order], at[order])
        for (owner, state), of_it in chunks.items():
            if not state.sealed:
                segment, open_bytes = _open_segment(state, of_it)
                contents[owner].open_segments[state.id] = segment
                state = replace(state, open_bytes=open_bytes)
            contents[owner].segments.append(state)

    def _of(self, buffer_id: int | None, table: sa.Table, *columns: Any, order_by: Any = None) -> Any:
        """Rows of one buffer or of all, each with its buffer's id in front."""
        statement = _only(sa.select(table.c.buffer_id, *columns), table.c.buffer_id, buffer_id)
        return self.connection.execute(statement if order_by is None else statement.order_by(order_by))

    def open_segment(self, state: SegmentState) -> OpenSegment:
        """An open segment, its CRC 0."""
        r = tables.open_rows.c
        statement = sa.select(r.headers, r.learners).where(r.segment_id == state.id).order_by(r.first)
        return _open_segment(state, [(row.headers, row.learners) for row in self.connection.execute(statement)])[0]

    def open_bodies(self, stem: str, known: int = 0) -> list[bytes] | None:
        """Bodies of an open segment in pieces, but its first ``known`` bytes; None where none has that name."""
        s, b = tables.segments.c, tables.open_bodies.c
        ends = sa.func.sum(sa.func.length(b.bodies)).over(order_by=b.first)
        of_it = sa.select(s.id).where(s.stem == stem).scalar_subquery()
        pieces = sa.select(b.first, b.bodies, ends.label("ends")).where(b.segment_id == of_it).subquery()
        statement = sa.select(pieces.c.bodies).select_from(tables.segments.outerjoin(pieces, pieces.c.ends > known))
        statement = statement.where(s.stem == stem, ~s.sealed).order_by(pieces.c.first)
        found = self.connection.execute(statement).scalars().all()
        return [piece for piece in found if piece is not None] if found else None

    def _scores(self, buffer_id: int | None) -> NDArray[np.void]:
        s = tables.scores.c
        statement = sa.select(s.buffer_id, s.exemplar_id, s.version, s.score, s.rank)
        statement = _only(statement, s.buffer_id, buffer_id).order_by(s.buffer_id, s.exemplar_id, s.version)
        return np.fromiter((tuple(row) for row in self.connection.execute(statement)), _SCORES)

    def scores_at(self, buffer_id: int, version: int) -> Arrays:
        """:attr:`BufferRows.scores` as they were at a version, only of records that were changed after it."""
        found = self._scores(buffer_id)
        changed_later = np.unique(found["exemplar_id"][found["version"] > version])
        return _latest(found[(found["version"] <= version) & np.isin(found["exemplar_id"], changed_later)])

    def revised(self, buffer_id: int, segment_id: int | None = None) -> Revised:
        """:attr:`BufferRows.revised`, or what of it lies in one segment."""
        r = tables.revisions.c
        statement = sa.select(*_REVISED).where(r.buffer_id == buffer_id)
        rows = self.connection.execute(_only(statement, r.segment_id, segment_id).order_by(r.stored_id))
        return np.array([tuple(row) for row in rows], REVISED_DTYPE)

    def num_revised(self, buffer_id: int) -> int:
        """How many records :meth:`revised` gives."""
        r = tables.revisions.c
        counted = sa.select(sa.func.count()).select_from(tables.revisions).where(r.buffer_id == buffer_id)
        return int(self.connection.execute(counted).scalar_one())

    def scored(self, buffer_id: int, exemplar_ids: Sequence[int]) -> set[int]:
        """Which of these got a score or rank after their push."""
        s = tables.scores.c
        statement = sa.select(s.exemplar_id).where(s.buffer_id == buffer_id)
        return {row[0] for row in self.rows_among(statement, s.exemplar_id, exemplar_ids)}

    def find_answers(self, buffer_id: int, wanted: Wanted) -> Found:
        """To pushes with idempotency keys."""
        return wanted.found(self.connection.execute(wanted.statement(), wanted.parameters(buffer_id)).all())

    def answers_beyond(self, buffer_id: int, but_newest: int) -> tuple[int, int]:
        """How many answers :meth:`Writing.forget_answers` would delete, and their bytes."""
        return self.count_answers(old_answers(buffer_id, None, but_newest))

    def count_answers(self, condition: sa.ColumnElement[bool]) -> tuple[int, int]:
        """How many rows of ``pushes``, and the bytes that the ledger counts for them."""
        number, num_bytes = self.connection.execute(counted_answers(condition)).one()
        return number, num_bytes

    def known_files(self) -> KnownFiles:
        """What should lie on the disk."""
        s, b, i = tables.segments.c, tables.buffers.c, tables.intents.c
        none: Any = sa.null()
        every = sa.union_all(
            sa.select(
                sa.literal("segment").label("kind"), s.stem.label("name"), s.file_bytes, s.num_records, s.sealed
            ).add_columns(sa.cast(none, sa.Double).label("left")),
            sa.select(
                sa.literal("intent"), i.stem, sa.literal(0), sa.literal(0), i.leaving, i.upload_until - seconds_now()
            ),
            sa.select(
                sa.literal("buffer"), b.name, b.next_exemplar_id, sa.literal(0), sa.false(), sa.cast(none, sa.Double)
            ),
        )
        rows = self.connection.execute(every).all()
        return KnownFiles(
            {row.name: (row.file_bytes, row.num_records, row.sealed) for row in rows if row.kind == "segment"},
            {row.name: row.sealed for row in rows if row.kind == "intent"},
            {row.name: row.file_bytes for row in rows if row.kind == "buffer"},
            {row.name: float(row.left) for row in rows if row.left is not None and row.left > 0},
        )

    def known_stems(self, stems: Collection[str]) -> set[str]:
        """Which of these the index speaks of."""
        s = tables.segments.c
        return {row[0] for row in self.rows_among(sa.select(s.stem), s.stem, sorted(stems))}

    def not_noted(self, parts: Iterable[Part]) -> list[Part]:
        """Those of which the index does not say what they say: the change that wrote them was not committed."""
        given, s = list(parts), tables.segments.c
        statement = sa.select(s.stem, s.file_bytes, s.sealed)
        known = {tuple(row) for row in self.rows_among(statement, s.stem, [part.after.stem for part in given])}
        return [part for part in given if (part.after.stem, part.file_bytes, part.sealed) not in known]

    def erasures(self) -> dict[int, Targets]:
        """Buffer id -> records that are being erased from it."""
        e = tables.erasures.c
        found = self.connection.execute(sa.select(e.buffer_id, e.exemplar_id, e.crc32, e.length))
        rows: dict[int, list[tuple[int, ...]]] = {}
        for owner, *values in found:
            rows.setdefault(owner, []).append(tuple(values))
        return {owner: np.array(of_it, TARGET_DTYPE) for owner, of_it in rows.items()}

    def forks_of(self, buffer_id: int) -> dict[int, int | None]:
        """Ids of the buffers that were forked from one, or from one of its forks; and of each, the id below which
        exemplars are the same in both, None where nobody knows it."""
        o = tables.origins.c
        statement = sa.select(o.buffer_id, o.next_exemplar_id).where(o.origin_id == buffer_id)
        return {row.buffer_id: row.next_exemplar_id for row in self.connection.execute(statement)}

    def origins_of(self, buffer_ids: Iterable[int]) -> set[int]:
        """Ids of all that these were forked from, through others too."""
        o = tables.origins.c
        return {row[0] for row in self.rows_among(sa.select(o.origin_id), o.buffer_id, list(buffer_ids))}

    def segments(self) -> list[SegmentState]:
        """All of them, in the order in which they were made; what buffers hold of them is not counted."""
        s = tables.segments.c
        found = self.connection.execute(sa.select(s.id, s.stem, s.file_bytes, s.num_records, s.sealed).order_by(s.id))
        return [SegmentState(*row) for row in found]

    def holders(self, segment_id: int) -> list[int]:
        """Ids of the buffers that a segment is part of."""
        b = tables.buffer_segments.c
        return list(self.connection.execute(sa.select(b.buffer_id).where(b.segment_id == segment_id)).scalars())

    def rows_among(self, statement: Any, column: sa.Column[Any], values: Sequence[Any]) -> list[sa.Row[Any]]:
        """What a statement gives where a column has one of some values."""
        found: list[sa.Row[Any]] = []
        for first in range(0, len(values), MOST_VALUES):
            found += self.connection.execute(statement.where(column.in_(values[first : first + MOST_VALUES]))).all()
        return found


_T = TypeVar("_T", bound=sa.Executable)

UNANSWERED: Final = "exemplar_memory_unanswered"
"""Option of statements of which nobody looks at the answer: a database may be told of several at once."""


def unanswered(statement: _T) -> _T:
    """A statement whose answer nobody looks at; that it fails may show at a later one."""
    return statement.execution_options(**{UNANSWERED: True})


def _revised(numbers: str) -> Revised:
    """Rows as text, in any order."""
    table = np.fromstring(numbers, np.uint64, sep=" ").reshape(-1, len(_REVISED))
    return np.sort(np.array(list(map(tuple, table.tolist())), REVISED_DTYPE), order="stored_id")


def entry_of(row: sa.Row[Any]) -> BufferEntry:
    """A row of ``buffers`` as a value."""
    config = BufferConfig.of_settings(row._asdict(), row.id)
    return BufferEntry(config, row.version, row.next_exemplar_id, row.bytes_used, row.num_records)


def _only(statement: Any, column: sa.Column[Any], buffer_id: int | None) -> Any:
    return statement if buffer_id is None else statement.where(column == buffer_id)


def _open_segment(state: SegmentState, chunks: Sequence[tuple[bytes, str]]) -> tuple[OpenSegment, int]:
    """An open segment of its rows of ``open_rows``, and the bytes that the ledger counts for those."""
    headers = tuple(np.frombuffer(chunk, HEADER_DTYPE) for chunk, _ in chunks)
    learners = [json.loads(new) for _, new in chunks]
    num_bytes = sum(ledger.open_row_bytes(len(chunk), new) for chunk, new in zip(headers, learners, strict=True))
    names = tuple(learner for new in learners for learner in new)
    return OpenSegment(state.stem, state.file_bytes, 0, headers, names, sum(map(len, headers))), num_bytes


def _latest(scores: NDArray[np.void]) -> Arrays:
    # The last of an id: they come in ascending order of versions.
    newest = scores[np.append(scores["exemplar_id"][1:] != scores["exemplar_id"][:-1], True)[: len(scores)]]
    return {name: newest[name].copy() for name in ("exemplar_id", "score", "rank")}
