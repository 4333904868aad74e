"""What is written to the index, in SQL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format import StorageError
from memory_service.store.index import tables
from memory_service.store.index.base import BufferEntry, Writing
from memory_service.store.index.selects import MOST_VALUES, Selects, entry_of, old_answers
from memory_service.store.pure.answers import Answer
from memory_service.store.pure.columns import Arrays, Rows
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments.base import Part


class Updates(Selects, Writing):
    """Writes in a connection that is in a transaction.

    Args:
        changed_to: see :attr:`Writing.changed_to`.
    """

    def __init__(self, connection: sa.Connection, changed_to: int | None = None) -> None:
        super().__init__(connection)
        self.changed_to = changed_to

    # Buffers

    def insert_buffer(self, config: BufferConfig, **figures: int) -> BufferEntry:
        empty = {"version": 0, "bytes_used": 0, "num_records": 0, "next_exemplar_id": 1}
        values = config.settings() | empty | figures
        return entry_of(self.connection.execute(tables.buffers.insert().returning(tables.buffers), values).one())

    def update_figures(self, old_version: int, entry: BufferEntry) -> None:
        parameters = {
            "of": entry.config.id,
            "from_version": old_version,
            "to_version": entry.version,
            "to_bytes_used": entry.bytes_used,
            "to_num_records": entry.num_records,
            "to_next_id": entry.next_exemplar_id,
        }
        if self.connection.execute(_UPDATE_FIGURES, parameters).rowcount != 1:
            raise StorageError(f"the index of buffer {entry.config.id} changed behind the service's back")

    def update_settings(self, config: BufferConfig) -> None:
        this = tables.buffers.update().where(tables.buffers.c.id == config.id)
        self.connection.execute(this.values(config.settings()))

    def delete_buffer(self, buffer_id: int) -> list[str]:
        orphaned = self.drop_segments(buffer_id, self.contents(buffer_id)[buffer_id].segments)
        for table in tables.BUFFER_TABLES:
            self.connection.execute(table.delete().where(table.c.buffer_id == buffer_id))
        self.connection.execute(tables.buffers.delete().where(tables.buffers.c.id == buffer_id))
        return orphaned

    # Segments

    def write_part(self, buffer_id: int, segment_id: int | None, part: Part) -> int:
        after = part.after
        values = {"file_bytes": part.file_bytes, "num_records": after.num_records, "sealed": part.sealed}
        if segment_id is None:
            statement = tables.segments.insert().values(stem=after.stem, **values)
            inserted = self.connection.execute(statement).inserted_primary_key
            assert inserted is not None
            segment_id = int(inserted[0])
            self.connection.execute(tables.intents.delete().where(tables.intents.c.stem == after.stem))
            self.connection.execute(tables.buffer_segments.insert(), {"buffer_id": buffer_id, "segment_id": segment_id})
        else:
            self.connection.execute(_UPDATE_SEGMENT, {"of": segment_id, **values})
        if part.sealed:
            self.forget_open_rows(segment_id)
        elif part.last > part.first:
            row = {
                "segment_id": segment_id,
                "first": after.num_records - len(after.chunks[-1]),
                "headers": after.chunks[-1].tobytes(),
                "learners": json.dumps(part.new_learners),
            }
            self.connection.execute(_INSERT_OPEN_ROW, row)
        return segment_id

    def write_parts(self, buffer_id: int, parts: Iterable[Part]) -> None:
        ids: dict[str, int] = {}
        for part in parts:
            ids[part.after.stem] = self.write_part(buffer_id, ids.get(part.after.stem), part)

    def share_segment(self, buffer_id: int, segment_id: int, dead: Sequence[int]) -> None:
        values = {"buffer_id": buffer_id, "segment_id": segment_id}
        self.connection.execute(tables.buffer_segments.insert(), values)
        self._insert(tables.deaths, [{**values, "version": 0, "exemplar_id": id_} for id_ in dead])

    def drop_segments(self, buffer_id: int, states: Iterable[SegmentState]) -> list[str]:
        orphaned = []
        for state in states:
            for table in (tables.deaths, tables.buffer_segments):
                c = table.c
                self.connection.execute(table.delete().where(c.buffer_id == buffer_id, c.segment_id == state.id))
            b = tables.buffer_segments.c
            shared = sa.select(b.buffer_id).where(b.segment_id == state.id).limit(1)
            if self.connection.execute(shared).first() is None:
                self.forget_open_rows(state.id)
                self.connection.execute(tables.segments.delete().where(tables.segments.c.id == state.id))
                self.connection.execute(tables.intents.insert(), {"stem": state.stem, "leaving": True})
                orphaned.append(state.stem)
        return orphaned

    def forget_open_rows(self, segment_id: int) -> None:
        """Of a segment that is open no more."""
        self.connection.execute(tables.open_rows.delete().where(tables.open_rows.c.segment_id == segment_id))

    def insert_deaths(self, buffer_id: int, dead: Arrays | Rows, versions: NDArray[np.uint64]) -> None:
        columns = (dead["segment"].tolist(), dead["exemplar_id"].tolist(), versions.tolist())
        self._insert(
            tables.deaths,
            [
                {"buffer_id": buffer_id, "segment_id": segment, "exemplar_id": id_, "version": version}
                for segment, id_, version in zip(*columns, strict=True)
            ],
        )

    # Classes, snapshots, scores, answers

    def insert_classes(self, buffer_id: int, class_ids: Iterable[int]) -> None:
        self._insert(tables.classes, [{"buffer_id": buffer_id, "class_id": class_id} for class_id in sorted(class_ids)])

    def insert_snapshot(self, buffer_id: int, snapshot: Snapshot) -> None:
        self.connection.execute(tables.snapshots.insert(), {"buffer_id": buffer_id, **vars(snapshot)})

    def delete_snapshot(self, buffer_id: int, name: str) -> int:
        s = tables.snapshots.c
        this = tables.snapshots.delete().where(s.buffer_id == buffer_id, s.name == name)
        return int(self.connection.execute(this).rowcount)

    def rescore(
        self,
        buffer_id: int,
        version: int,
        old: Rows,
        score: NDArray[np.float32],
        rank: NDArray[np.uint32],
        snapshot_versions: Sequence[int],
    ) -> int:
        ids = old["exemplar_id"].tolist()
        new = [(version, *values) for values in zip(ids, score.tolist(), rank.tolist(), strict=True)]
        if snapshot_versions:
            # What is in the segment alone would be lost to them.
            known = self.scored(buffer_id, ids)
            before = zip(ids, old["score"].tolist(), old["rank"].tolist(), strict=True)
            new += [(0, *values) for values in before if values[0] not in known]
        names = ("version", "exemplar_id", "score", "rank")
        self._insert(tables.scores, [{"buffer_id": buffer_id, **dict(zip(names, row, strict=True))} for row in new])
        return len(new) - self._prune_scores(buffer_id, ids, snapshot_versions)

    def forget_scores(self, buffer_id: int, exemplar_ids: Iterable[int]) -> int:
        s = tables.scores.c
        removed = 0
        wanted = list(exemplar_ids)
        for first in range(0, len(wanted), MOST_VALUES):
            ids = s.exemplar_id.in_(wanted[first : first + MOST_VALUES])
            removed += self.connection.execute(tables.scores.delete().where(s.buffer_id == buffer_id, ids)).rowcount
        return removed

    def prune_scores(self, buffer_id: int, snapshot_versions: Sequence[int]) -> int:
        return self._prune_scores(buffer_id, None, snapshot_versions)

    def _prune_scores(self, buffer_id: int, ids: Sequence[int] | None, snapshot_versions: Sequence[int]) -> int:
        """:meth:`prune_scores` of some records, None = of all."""
        s = tables.scores.c
        statement = sa.select(s.exemplar_id, s.version).where(s.buffer_id == buffer_id)
        if ids is None:
            found: list[Any] = list(self.connection.execute(statement).all())
        else:
            found = self.rows_among(statement, s.exemplar_id, ids)
        versions: dict[int, list[int]] = {}
        for exemplar_id, version in found:
            versions.setdefault(exemplar_id, []).append(version)
        marks = np.array(snapshot_versions, dtype=np.int64)
        gone = [
            {"of": exemplar_id, "at": version}
            for exemplar_id, of_it in versions.items()
            for version, following in pairwise(sorted(of_it))
            # Shown by a snapshot at or after it, and before the next.
            if not ((marks >= version) & (marks < following)).any()
        ]
        if not gone:
            return 0
        this = tables.scores.delete().where(
            s.buffer_id == buffer_id, s.exemplar_id == sa.bindparam("of"), s.version == sa.bindparam("at")
        )
        return int(self.connection.execute(this, gone).rowcount)

    def insert_answers(self, buffer_id: int, answers: Sequence[Answer], created_at: float) -> None:
        same = {"buffer_id": buffer_id, "created_at": created_at}
        self._insert(tables.pushes, [{**same, **vars(answer)} for answer in answers])

    def forget_answers(
        self, buffer_id: int, *, older_than: float | None = None, but_newest: int | None = None
    ) -> tuple[int, int]:
        condition = old_answers(buffer_id, older_than, but_newest)
        number, num_bytes = self.count_answers(condition)
        if number:
            self.connection.execute(tables.pushes.delete().where(condition))
        return number, num_bytes

    def _insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.connection.execute(table.insert(), rows)


# Made once: they are part of every change, and cost more to make than to run.
_UPDATE_SEGMENT = tables.segments.update().where(tables.segments.c.id == sa.bindparam("of"))
_INSERT_OPEN_ROW = tables.open_rows.insert()
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
