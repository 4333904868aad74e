"""The statements that move rows in and out of the index. Each takes a connection inside the caller's
transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format import HEADER_BYTES, StorageError
from memory_service.store import index
from memory_service.store.columns import COLUMN_DTYPES, Arrays, Columns, Learners
from memory_service.store.compaction import SegmentState
from memory_service.store.segments import WrittenSegment

_LOAD_CHUNK = 50_000
# Column of the index -> column in memory, where the two differ.
_IN_MEMORY = {"segment_id": "segment", "learner_id": "learner"}
_STORED = tuple(column.name for column in index.records.columns if column.name not in ("buffer_id", "charge"))


def load(connection: sa.Connection, buffer_id: int, learners: Learners) -> tuple[Columns, list[SegmentState]]:
    """The live rows and the segments of a buffer.

    Raises:
        StorageError: the index has no such buffer.
    """
    version = connection.execute(
        sa.select(index.buffers.c.version).where(index.buffers.c.id == buffer_id)
    ).scalar_one_or_none()
    if version is None:
        raise StorageError(f"the index has no buffer {buffer_id}")
    columns = Columns.empty(version)
    statement = (
        sa.select(*(index.records.c[name] for name in _STORED))
        .where(index.records.c.buffer_id == buffer_id)
        .order_by(index.records.c.exemplar_id)
    )
    for chunk in connection.execute(statement).partitions(_LOAD_CHUNK):
        values = dict(zip(_STORED, zip(*chunk, strict=True), strict=True))
        values["learner_id"] = tuple(learners.code(learner_id) for learner_id in values["learner_id"])
        columns = columns.appended(
            version,
            {
                _IN_MEMORY.get(name, name): np.array(v, COLUMN_DTYPES[_IN_MEMORY.get(name, name)])
                for name, v in values.items()
            },
        )
    states = {
        row.id: SegmentState(row.id, row.name, row.file_bytes)
        for row in connection.execute(sa.select(index.segments).where(index.segments.c.buffer_id == buffer_id))
    }
    for segment_id, (count, charge) in live_by_segment(columns["segment"], columns.charge).items():
        states[segment_id].live_records = count
        states[segment_id].live_bytes = charge
    return columns, list(states.values())


def live_by_segment(segment: NDArray[Any], charge: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """Segment id -> (records, bytes) of the rows given."""
    ids, inverse, counts = np.unique(segment, return_inverse=True, return_counts=True)
    totals = np.zeros(len(ids), dtype=np.int64)
    np.add.at(totals, inverse, charge)
    return {
        segment_id: (count, total)
        for segment_id, count, total in zip(ids.tolist(), counts.tolist(), totals.tolist(), strict=True)
    }


def insert_segments(connection: sa.Connection, buffer_id: int, written: Sequence[WrittenSegment]) -> list[SegmentState]:
    states = []
    for segment in written:
        inserted = connection.execute(
            index.segments.insert().values(buffer_id=buffer_id, name=segment.name, file_bytes=segment.file_bytes)
        ).inserted_primary_key
        assert inserted is not None
        states.append(SegmentState(int(inserted[0]), segment.name, segment.file_bytes))
    return states


def insert_records(connection: sa.Connection, buffer_id: int, rows: Arrays, learners: Learners) -> None:
    """Rows as columns, with their final ids, segments and offsets."""
    lists: dict[str, list[Any]] = {name: rows[_IN_MEMORY.get(name, name)].tolist() for name in _STORED}
    lists["learner_id"] = [learners.ids[code] for code in lists["learner_id"]]
    lists["charge"] = [length + HEADER_BYTES for length in lists["length"]]
    names = list(lists)
    parameters = [
        {"buffer_id": buffer_id, **dict(zip(names, values, strict=True))}
        for values in zip(*lists.values(), strict=True)
    ]
    if parameters:
        connection.execute(index.records.insert(), parameters)


def delete_records(connection: sa.Connection, buffer_id: int, exemplar_ids: Sequence[int]) -> None:
    """Remove evicted rows.

    Raises:
        StorageError: one of them is not in the index.
    """
    if not exemplar_ids:
        return
    c = index.records.c
    statement = index.records.delete().where(c.buffer_id == buffer_id, c.exemplar_id == sa.bindparam("gone"))
    result = connection.execute(statement, [{"gone": exemplar_id} for exemplar_id in exemplar_ids])
    _expect(result.rowcount, len(exemplar_ids))


def move_records(connection: sa.Connection, buffer_id: int, moved: Arrays) -> None:
    """Point rows at the segments and offsets given.

    Raises:
        StorageError: one of them is not in the index.
    """
    c = index.records.c
    statement = (
        index.records.update()
        .where(c.buffer_id == buffer_id, c.exemplar_id == sa.bindparam("moved"))
        .values(segment_id=sa.bindparam("to_segment"), offset=sa.bindparam("to_offset"))
    )
    places = zip(*(moved[name].tolist() for name in ("exemplar_id", "segment", "offset")), strict=True)
    parameters = [{"moved": moved, "to_segment": segment, "to_offset": offset} for moved, segment, offset in places]
    if parameters:
        _expect(connection.execute(statement, parameters).rowcount, len(parameters))


def delete_segments(connection: sa.Connection, segment_ids: Iterable[int]) -> None:
    """The foreign key refuses this while a record of theirs lives."""
    for segment_id in segment_ids:
        connection.execute(index.segments.delete().where(index.segments.c.id == segment_id))


def update_counters(
    connection: sa.Connection, buffer_id: int, old_version: int, columns: Columns, next_id: int
) -> None:
    """Write a buffer's figures.

    Raises:
        StorageError: the buffer is not at ``old_version``.
    """
    c = index.buffers.c
    result = connection.execute(
        index.buffers.update()
        .where(c.id == buffer_id, c.version == old_version)
        .values(
            version=columns.version,
            bytes_used=columns.bytes_used,
            num_records=columns.num_records,
            next_exemplar_id=next_id,
        )
    )
    _expect(result.rowcount, 1)


def _expect(found: int, expected: int) -> None:
    if found != expected:
        raise StorageError(f"the index changed behind the service's back: {found} rows met, {expected} expected")
