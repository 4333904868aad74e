"""Whether the state that an open buffer has come to is the one it would read if it were opened now."""

from __future__ import annotations

import zlib
from typing import Any

from memory_service.store import Buffer
from memory_service.store.loading import SealedSegments, load
from memory_service.store.pure.columns import ROW_DTYPE, Columns, Learners


def expect_loaded_state(buffer: Buffer) -> None:
    """Every field of the state that changes have made is that of the state loaded from index and segments; learner
    codes may differ, and what is leased is in memory alone."""
    kept, learners = buffer.state, Learners()
    with buffer._index.reading() as reading:
        entry = reading.find_buffer(buffer.config.id)
        assert entry is not None
        rows = reading.contents(entry.config.id)[entry.config.id]
    fresh = load(entry, rows, SealedSegments(buffer._segments), learners, kept.leased)
    assert (kept.config, kept.version, kept.next_id) == (fresh.config, fresh.version, fresh.next_id)
    assert _records(buffer.contents.learners, kept.columns) == _records(learners, fresh.columns)
    assert _records(buffer.contents.learners, kept.pinned.columns) == _records(learners, fresh.pinned.columns)
    for mine, loaded in zip(kept.held, fresh.held, strict=True):
        assert mine.shown_ids.tolist() == loaded.shown_ids.tolist()
        assert mine.revisions(mine["exemplar_id"]).tolist() == loaded.revisions(loaded["exemplar_id"]).tolist()
    assert kept.columns.bytes_used == fresh.columns.bytes_used
    assert kept.pinned.died.tolist() == fresh.pinned.died.tolist()
    assert kept.segments == fresh.segments
    assert kept.snapshots == fresh.snapshots
    assert kept.classes == fresh.classes
    assert kept.names == fresh.names
    assert kept.counts == fresh.counts
    assert kept.disk_bytes == fresh.disk_bytes
    # Changes of other buffers may have followed.
    assert kept.number <= fresh.number
    assert buffer._index.is_shared or buffer._index.made_here(kept.number, fresh.number)
    for growing in buffer._commits.writer.growing.values():
        segment = kept.segments[growing.id]
        assert (growing.segment.end, growing.segment.num_records) == (segment.file_bytes, segment.num_records)
        assert not segment.sealed
        on_disk = rows.open_segments[growing.id]
        assert growing.segment.learners == on_disk.learners
        assert growing.segment.headers().tobytes() == on_disk.headers().tobytes()
        assert growing.segment.crc32 == zlib.crc32(buffer._segments.bodies_of(on_disk))


def _records(learners: Learners, columns: Columns) -> dict[str, list[Any]]:
    found = {name: columns[name].tolist() for name in ROW_DTYPE.names or () if name != "learner"}
    return found | {"learner_id": [learners.ids[code] for code in columns["learner"].tolist()]}
