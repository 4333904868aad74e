"""What is written to the index, in SQL: it takes and gives the store's own types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format import StorageError
from memory_service.store.index import tables
from memory_service.store.index.answers import old_answers
from memory_service.store.index.connecting import Told
from memory_service.store.index.reading import (
    MOST_VALUES,
    BufferEntry,
    entry_of,
    unanswered,
)
from memory_service.store.index.revising import Revising
from memory_service.store.index.unheld import DELETE_UNHELD, FORGET_UNHELD, HOLD_SEGMENTS
from memory_service.store.pure.change import Answer
from memory_service.store.pure.columns import Arrays, Rows
from memory_service.store.pure.erasing import NO_TARGETS, TARGET_DTYPE, Targets
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.revised import NOTHING_REVISED, Revised
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.pure.words import Words
from memory_service.store.segments.appending import Part


class Writing(Revising):
    """A transaction that changes the index.

    Every method raises ``StorageError`` where it cannot be written. All of it is undone then.
    """

    # Buffers

    def insert_buffer(self, config: BufferConfig, **figures: int) -> BufferEntry:
        """Make a buffer, empty unless ``figures`` (fields of :class:`BufferEntry`) say otherwise; gives it its id."""
        empty = {"version": 0, "bytes_used": 0, "num_records": 0, "next_exemplar_id": 1}
        values = config.settings() | empty | figures
        return entry_of(self.connection.execute(tables.buffers.insert().returning(tables.buffers), values).one())

    def update_figures(self, old_version: int, entry: BufferEntry) -> None:
        """Write a buffer's counters, and nothing of its settings. Raises ``StorageError``: it is not at
        ``old_version``: somebody else has changed it."""
        parameters = {
            "of": entry.config.id,
            "from_version": old_version,
            "to_version": entry.version,
            "to_bytes_used": entry.bytes_used,
            "to_num_records": entry.num_records,
            "to_next_id": entry.next_exemplar_id,
        }
        if self._shared:
            # Nobody waits for the answer: what is wrong fails the transaction.
            self.connection.execute(_GUARDED_FIGURES, parameters)
        elif self.connection.execute(_UPDATE_FIGURES, parameters).rowcount != 1:
            raise StorageError(f"the index of buffer {entry.config.id} changed behind the service's back")

    def update_settings(self, config: BufferConfig) -> None:
        """Write a buffer's settings."""
        this = unanswered(tables.buffers.update().where(tables.buffers.c.id == config.id))
        self.connection.execute(this.values(config.settings()))

    def delete_buffer(self, buffer_id: int) -> Iterable[str]:
        """Delete all that is said of a buffer; gives the stems of segments that no buffer consists of any more."""
        orphaned = self.drop_segments(buffer_id, self.contents(buffer_id)[buffer_id].segments)
        for table in tables.BUFFER_TABLES:
            self.connection.execute(table.delete().where(table.c.buffer_id == buffer_id))
        self.connection.execute(tables.buffers.delete().where(tables.buffers.c.id == buffer_id))
        return orphaned

    # Segments

    def write_part(self, buffer_id: int, segment_id: int | None, part: Part) -> int:
        """Note what was written to a segment, None for a new one; returns the segment's id."""
        after = part.after
        values = {"file_bytes": part.file_bytes, "num_records": after.num_records, "sealed": part.sealed}
        if segment_id is None:
            segment_id = self.insert_segment([buffer_id], stem=after.stem, **values)
        else:
            self.connection.execute(_UPDATE_SEGMENT, {"of": segment_id, "stem": after.stem, **values})
            if part.before is not None and part.before.stem != after.stem:
                self._forget_intent(after.stem, sealed=part.sealed)
        if part.sealed:
            self.forget_open_rows(segment_id)
        elif part.last > part.first:
            place = {"segment_id": segment_id, "first": after.num_records - len(after.chunks[-1])}
            row = {"headers": after.chunks[-1].tobytes(), "learners": json.dumps(part.new_learners)}
            self.connection.execute(_INSERT_OPEN_ROW, {**place, **row})
            if part.bodies:
                self.connection.execute(_INSERT_OPEN_BODIES, {**place, "bodies": b"".join(part.bodies)})
        return segment_id

    def insert_segment(self, buffer_ids: Iterable[int], *, stem: str, **values: int) -> int:
        """Make a segment part of buffers; returns its id. It is not about to be made, or to go, any more."""
        if not self._segment_ids:
            inserted = self.connection.execute(tables.segments.insert().values(stem=stem, **values))
            assert inserted.inserted_primary_key is not None
            id_ = int(inserted.inserted_primary_key[0])
        else:
            id_ = self._segment_ids.popleft()
            self.connection.execute(unanswered(tables.segments.insert().values(id=id_, stem=stem, **values)))
        self._forget_intent(stem, sealed=bool(values["sealed"]))
        for buffer_id in buffer_ids:
            self.connection.execute(_INSERT_BUFFER_SEGMENT, {"buffer_id": buffer_id, "segment_id": id_})
        return id_

    def write_parts(self, buffer_id: int, parts: Iterable[Part], revised: Revised = NOTHING_REVISED) -> None:
        """Note what was written to new segments of a new buffer, and which of it is in the table ``revised``."""
        ids: dict[str, int] = {}
        for part in parts:
            # Sealed, it may have another name than before.
            id_ = None if part.before is None else ids[part.before.stem]
            segment_id = ids[part.after.stem] = self.write_part(buffer_id, id_, part)
            if part.last > part.first:
                self.insert_revisions(buffer_id, segment_id, part.after.chunks[-1]["exemplar_id"], revised)

    def share_segment(self, buffer_id: int, segment_id: int, dead: Sequence[int], source_id: int) -> None:
        """Make a sealed segment of one buffer part of another one, which does not hold those of its records that are
        dead."""
        values = {"buffer_id": buffer_id, "segment_id": segment_id}
        self.connection.execute(tables.buffer_segments.insert(), values)
        self.insert(tables.deaths, [{**values, "version": 0, "exemplar_id": id_} for id_ in dead])
        known = self.revised(source_id, segment_id)
        self.insert_revisions(buffer_id, segment_id, known["stored_id"], known)

    def drop_segments(self, buffer_id: int, states: Iterable[SegmentState]) -> Iterable[str]:
        """Take segments out of a buffer; gives the stems of those that no buffer consists of any more, for which nobody
        waits who looks at them behind the transaction."""
        gone = list(states)
        if not gone:
            return []
        ids = {"ids": [state.id for state in gone]}
        if self._shared:
            # Who lets go of one that another buffer has let go of just now is to see that.
            self.connection.execute(HOLD_SEGMENTS, ids)
        for state in gone:
            for table in (tables.deaths, tables.revisions, tables.buffer_segments):
                this = table.delete().where(table.c.buffer_id == buffer_id, table.c.segment_id == state.id)
                self.connection.execute(unanswered(this))
        if self._grace_seconds is not None:
            for statement in FORGET_UNHELD:
                self.connection.execute(statement, {**ids, "seconds": self._grace_seconds})
            return Told(self.connection, DELETE_UNHELD, ids)
        b = tables.buffer_segments.c
        shared = {id_ for (id_,) in self.rows_among(sa.select(b.segment_id), b.segment_id, [s.id for s in gone])}
        orphaned = [state for state in gone if state.id not in shared]
        for state in orphaned:
            self.forget_open_rows(state.id)
            self.connection.execute(unanswered(tables.segments.delete().where(tables.segments.c.id == state.id)))
        self._insert_leaving([state.stem for state in orphaned])
        return [state.stem for state in orphaned]

    def forget_open_rows(self, segment_id: int) -> None:
        """Of a segment that is open no more."""
        for table in (tables.open_rows, tables.open_bodies):
            self.connection.execute(unanswered(table.delete().where(table.c.segment_id == segment_id)))

    def insert_deaths(self, buffer_id: int, dead: Arrays | Rows, versions: NDArray[np.uint64]) -> None:
        """Note that records have died, ``(N,)``, and at which version each of them did."""
        columns = (dead["segment"].tolist(), dead["exemplar_id"].tolist(), versions.tolist())
        self.insert(
            tables.deaths,
            [
                {"buffer_id": buffer_id, "segment_id": segment, "exemplar_id": id_, "version": version}
                for segment, id_, version in zip(*columns, strict=True)
            ],
        )

    # What repairs segments

    def seal(self, segment_id: int, file_bytes: int, num_records: int) -> None:
        """A segment that the index calls open is sealed, and this long."""
        this = tables.segments.update().where(tables.segments.c.id == segment_id)
        self.connection.execute(this.values(file_bytes=file_bytes, num_records=num_records, sealed=True))
        self.forget_open_rows(segment_id)

    def move_records(self, old_id: int, new_id: int, lost: Iterable[int]) -> None:
        """Records of one segment lie in another one now, dead ones too; those with the ids ``lost`` do not."""
        d, r = tables.deaths.c, tables.revisions.c
        for exemplar_id in lost:
            self.connection.execute(tables.deaths.delete().where(d.segment_id == old_id, d.exemplar_id == exemplar_id))
            self.connection.execute(tables.revisions.delete().where(r.segment_id == old_id, r.stored_id == exemplar_id))
        for table in (tables.deaths, tables.revisions):
            self.connection.execute(table.update().where(table.c.segment_id == old_id).values(segment_id=new_id))

    def forget_segment(self, segment_id: int) -> None:
        """Nobody holds a segment any more; its file is the caller's to move."""
        for table in (
            tables.deaths,
            tables.revisions,
            tables.buffer_segments,
            tables.open_rows,
            tables.open_bodies,
        ):
            self.connection.execute(table.delete().where(table.c.segment_id == segment_id))
        self.connection.execute(tables.segments.delete().where(tables.segments.c.id == segment_id))

    # Forks and erasures

    def insert_origins(self, buffer_id: int, source_id: int, next_exemplar_id: int) -> None:
        """Note that a buffer is a fork of another one, which is to give that id next. What is being erased from the
        one is from the other, too."""
        o = tables.origins.c
        statement = sa.select(o.origin_id, o.next_exemplar_id).where(o.buffer_id == source_id)
        older = self.connection.execute(statement).all()
        names = ("origin_id", "next_exemplar_id")
        origins = [dict(zip(names, row, strict=True)) for row in ((source_id, next_exemplar_id), *older)]
        self.insert(tables.origins, [{"buffer_id": buffer_id, **row} for row in origins])
        e = tables.erasures.c
        targets = (e.exemplar_id, e.crc32, e.length)
        erased = sa.select(sa.literal(buffer_id, e.buffer_id.type), *targets).where(e.buffer_id == source_id)
        self.connection.execute(tables.erasures.insert().from_select([e.buffer_id, *targets], erased))

    def insert_erasures(self, targets: Mapping[int, Targets]) -> None:
        """Note that records are being erased from buffers, by id."""
        known = self.erasures()
        for id_, of_it in targets.items():
            new = of_it[~np.isin(of_it, known.get(id_, NO_TARGETS))]
            rows = [dict(zip(TARGET_DTYPE.names or (), row, strict=True)) for row in new.tolist()]
            self.insert(tables.erasures, [{"buffer_id": id_, **row} for row in rows])

    def delete_erasures(self, buffer_ids: Iterable[int]) -> None:
        """No file holds any more what was to be erased from these buffers."""
        for id_ in buffer_ids:
            # Headers of those records are in what others were told.
            for table in (tables.erasures, tables.news):
                self.connection.execute(table.delete().where(table.c.buffer_id == id_))

    # Classes, snapshots, scores, answers

    def insert_classes(self, buffer_id: int, class_ids: Iterable[int]) -> None:
        """Note classes that a buffer has been offered for the first time."""
        self.insert(tables.classes, [{"buffer_id": buffer_id, "class_id": class_id} for class_id in sorted(class_ids)])

    def insert_names(self, buffer_id: int, names: Mapping[int, str]) -> None:
        """Note what classes are called, by their ids."""
        self.insert(
            tables.class_names,
            [{"buffer_id": buffer_id, "class_id": class_id, "name": name} for class_id, name in names.items()],
        )

    def insert_words(self, buffer_id: int, words: Words) -> None:
        """Note the words of a buffer's vocabulary, which has none yet."""
        self.connection.execute(tables.vocabularies.insert(), {"buffer_id": buffer_id, "words": words.packed})

    def delete_words(self, buffer_id: int) -> None:
        """The buffer's vocabulary is another one from now on."""
        self.connection.execute(tables.vocabularies.delete().where(tables.vocabularies.c.buffer_id == buffer_id))

    def insert_snapshot(self, buffer_id: int, snapshot: Snapshot) -> None:
        """Note a snapshot."""
        self.connection.execute(tables.snapshots.insert(), {"buffer_id": buffer_id, **vars(snapshot)})

    def delete_snapshot(self, buffer_id: int, name: str) -> int:
        """Returns how many there were of that name, 0 or 1."""
        s = tables.snapshots.c
        this = tables.snapshots.delete().where(s.buffer_id == buffer_id, s.name == name)
        return int(self.connection.execute(this).rowcount)

    def lessen(self, buffer_id: int, less: Iterable[Snapshot], freed: Rows) -> None:
        """Note what snapshots count now, and that none shows these records, which died before."""
        s, d = tables.snapshots.c, tables.deaths.c
        for mark in less:
            this = tables.snapshots.update().where(s.buffer_id == buffer_id, s.name == mark.name)
            counted = {"num_records": mark.num_records, "bytes_used": mark.bytes_used, "erased": mark.erased}
            self.connection.execute(this.values(counted))
        rows = [{"in": segment, "of": id_} for segment, id_ in freed[["segment", "exemplar_id"]].tolist()]
        if rows:
            place = (d.segment_id == sa.bindparam("in"), d.exemplar_id == sa.bindparam("of"))
            self.connection.execute(
                tables.deaths.update().where(d.buffer_id == buffer_id, *place).values(version=0), rows
            )

    def rescore(
        self,
        buffer_id: int,
        version: int,
        old: Rows,
        score: NDArray[np.float32],
        rank: NDArray[np.uint32],
        snapshot_versions: Sequence[int],
    ) -> int:
        """Note new scores and ranks from a version on, and keep the old ones as far as snapshots show them.

        Args:
            old: ``exemplar_id``, ``score`` and ``rank`` as they were.
            snapshot_versions: of the snapshots there are, ascending.

        Returns:
            by how much the rows of scores have grown.
        """
        ids = old["exemplar_id"].tolist()
        new = [(version, *values) for values in zip(ids, score.tolist(), rank.tolist(), strict=True)]
        if snapshot_versions:
            # What is in the segment alone would be lost to them.
            known = self.scored(buffer_id, ids)
            before = zip(ids, old["score"].tolist(), old["rank"].tolist(), strict=True)
            new += [(0, *values) for values in before if values[0] not in known]
        names = ("version", "exemplar_id", "score", "rank")
        self.insert(tables.scores, [{"buffer_id": buffer_id, **dict(zip(names, row, strict=True))} for row in new])
        return len(new) - self._prune_scores(buffer_id, ids, snapshot_versions)

    def forget_scores(self, buffer_id: int, exemplar_ids: Iterable[int]) -> int:
        """Forget those of records that nobody can read any more; returns the rows deleted."""
        s = tables.scores.c
        removed = 0
        wanted = list(exemplar_ids)
        for first in range(0, len(wanted), MOST_VALUES):
            ids = s.exemplar_id.in_(wanted[first : first + MOST_VALUES])
            removed += self.connection.execute(tables.scores.delete().where(s.buffer_id == buffer_id, ids)).rowcount
        return removed

    def prune_scores(self, buffer_id: int, snapshot_versions: Sequence[int]) -> int:
        """Forget those that no snapshot and not the buffer itself shows; returns the rows deleted."""
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
        """Keep answers to pushes."""
        same = {"buffer_id": buffer_id, "created_at": created_at}
        self.insert(tables.pushes, [{**same, **vars(answer)} for answer in answers])

    def forget_answers(
        self, buffer_id: int, *, older_than: float | None = None, but_newest: int | None = None
    ) -> tuple[int, int]:
        """Delete answers to pushes: the old ones, or all but some. Returns how many, and their bytes."""
        number, num_bytes = self.count_answers(old_answers(buffer_id, older_than, but_newest))
        if number:
            self.delete_answers(buffer_id, older_than=older_than, but_newest=but_newest)
        return number, num_bytes

    def delete_answers(self, buffer_id: int, *, older_than: float | None = None, but_newest: int | None = None) -> None:
        """The same of answers that were counted before: see :meth:`find_answers`."""
        self.connection.execute(
            unanswered(tables.pushes.delete().where(old_answers(buffer_id, older_than, but_newest)))
        )


# Made once: they are part of every change, and cost more to make than to run.
_UPDATE_SEGMENT = unanswered(tables.segments.update().where(tables.segments.c.id == sa.bindparam("of")))
_INSERT_OPEN_ROW = unanswered(tables.open_rows.insert())
_INSERT_OPEN_BODIES = unanswered(tables.open_bodies.insert())
_INSERT_BUFFER_SEGMENT = unanswered(tables.buffer_segments.insert())
_IS_THERE = tables.buffers.c.version == sa.bindparam("from_version", type_=sa.BigInteger)
_FIGURES = (
    tables.buffers.update()
    .where(tables.buffers.c.id == sa.bindparam("of"))
    .values(
        version=sa.bindparam("to_version"),
        bytes_used=sa.bindparam("to_bytes_used"),
        num_records=sa.bindparam("to_num_records"),
        next_exemplar_id=sa.bindparam("to_next_id"),
    )
)
_UPDATE_FIGURES = _FIGURES.where(_IS_THERE)
_GUARDED_FIGURES = unanswered(
    # At another version this divides by zero.
    _FIGURES.values(version=sa.bindparam("to_version", type_=sa.BigInteger) // sa.cast(_IS_THERE, sa.Integer))
)
