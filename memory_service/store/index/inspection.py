"""What verify and repair ask of an index, and change in it, beside what a store does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.index.base import BufferEntry
from memory_service.store.index.selects import Selects
from memory_service.store.index.sql import SqlIndex
from memory_service.store.index.updates import Updates
from memory_service.store.pure.tallies import SegmentState


class Inspection(Selects):
    """A transaction that sees one state of the index throughout."""

    def segments(self) -> list[SegmentState]:
        """All of them, in the order in which they were made."""
        s = tables.segments.c
        found = self.connection.execute(sa.select(s.id, s.stem, s.file_bytes, s.num_records, s.sealed).order_by(s.id))
        return [SegmentState(*row) for row in found]

    def faults(self) -> Iterator[str]:
        """What SQLite finds wrong with its file, and rows that refer to none; nothing where it is sound."""
        for pragma in ("integrity_check", "foreign_key_check"):
            found = self.connection.exec_driver_sql(f"PRAGMA {pragma}").all()
            if found and found != [("ok",)]:
                yield f"{pragma}: {found[0]}"

    def first_holder(self, segment_id: int) -> BufferEntry | None:
        """The oldest of the buffers that a segment is part of."""
        ids = self.holders(segment_id)
        return self.find_buffer(min(ids)) if ids else None

    def holders(self, segment_id: int) -> list[int]:
        """Ids of the buffers that a segment is part of."""
        b = tables.buffer_segments.c
        return list(self.connection.execute(sa.select(b.buffer_id).where(b.segment_id == segment_id)).scalars())


class Mending(Updates, Inspection):
    """A transaction that brings an index to what the segments say."""

    def insert_sealed(self, buffer_ids: Iterable[int], stem: str, file_bytes: int, num_records: int) -> int:
        """Make a sealed segment part of buffers; returns its id. It is not about to be made, or to go, any more."""
        self.connection.execute(tables.intents.delete().where(tables.intents.c.stem == stem))
        values = {"stem": stem, "file_bytes": file_bytes, "num_records": num_records, "sealed": True}
        inserted = self.connection.execute(tables.segments.insert().values(values)).inserted_primary_key
        assert inserted is not None
        segment_id = int(inserted[0])
        for buffer_id in buffer_ids:
            self.connection.execute(tables.buffer_segments.insert(), {"buffer_id": buffer_id, "segment_id": segment_id})
        return segment_id

    def seal(self, segment_id: int, file_bytes: int, num_records: int) -> None:
        """A segment that the index calls open is sealed, and this long."""
        this = tables.segments.update().where(tables.segments.c.id == segment_id)
        self.connection.execute(this.values(file_bytes=file_bytes, num_records=num_records, sealed=True))
        self.forget_open_rows(segment_id)

    def move_deaths(self, old_id: int, new_id: int, lost: Iterable[int]) -> None:
        """Records of one segment lie in another one now, dead ones too.

        Args:
            lost: ids of those that do not.
        """
        d = tables.deaths.c
        for exemplar_id in lost:
            self.connection.execute(tables.deaths.delete().where(d.segment_id == old_id, d.exemplar_id == exemplar_id))
        self.connection.execute(tables.deaths.update().where(d.segment_id == old_id).values(segment_id=new_id))

    def forget_segment(self, segment_id: int) -> None:
        """Nobody holds a segment any more; its file is the caller's to move."""
        for table in (tables.deaths, tables.buffer_segments, tables.open_rows):
            self.connection.execute(table.delete().where(table.c.segment_id == segment_id))
        self.connection.execute(tables.segments.delete().where(tables.segments.c.id == segment_id))


@contextmanager
def inspecting(index: SqlIndex) -> Iterator[Inspection]:
    """Raises:
    StorageError: it cannot be read.
    """
    with index.read() as connection:
        yield Inspection(connection)


@contextmanager
def mending(index: SqlIndex) -> Iterator[Mending]:
    """Durable when this returns, and undone when the block raises.

    Raises:
        StorageError: it cannot be written.
    """
    with index.write() as connection:
        yield Mending(connection)
