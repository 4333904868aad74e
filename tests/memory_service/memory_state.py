"""Whether what an open buffer has in memory is what it would read if it were opened now."""

from __future__ import annotations

import zlib
from typing import Any

from memory_service.store import Buffer
from memory_service.store.contents import Contents
from memory_service.store.pure.columns import COLUMN_DTYPES, Columns

_COUNTED = (
    *("stem", "file_bytes", "num_records", "sealed", "open_bytes"),
    *("live_records", "live_bytes", "pinned_records", "pinned_bytes"),
)


def assert_memory_matches_index(buffer: Buffer) -> None:
    """Every figure and every row, the ledger's counts included."""
    kept = buffer.contents
    fresh = Contents(buffer.config.id, buffer._segments)
    with buffer._index.reading() as reading:
        entry = reading.find_buffer(buffer.config.id)
        assert entry is not None
        fresh.load(reading.contents(buffer.config.id)[buffer.config.id], entry.version)
    assert (kept.columns.version, buffer.config) == (entry.version, entry.config)
    assert _rows(kept, kept.columns) == _rows(fresh, fresh.columns)
    assert _rows(kept, kept.pinned.columns) == _rows(fresh, fresh.pinned.columns)
    assert kept.pinned.died.tolist() == fresh.pinned.died.tolist()
    assert _states(kept) == _states(fresh)
    assert kept.index_rows == fresh.index_rows
    assert kept.snapshots == fresh.snapshots
    assert kept.classes == fresh.classes
    assert kept.disk_bytes == fresh.disk_bytes
    for growing in kept.growing.values():
        state, segment = kept.states[growing.id], growing.segment
        assert (segment.end, segment.num_records) == (state.file_bytes, state.num_records)
        assert not state.sealed
        with buffer._index.reading() as reading:
            on_disk = reading.open_segment(state)
        assert segment.learners == on_disk.learners
        assert segment.headers().tobytes() == on_disk.headers().tobytes()
        assert segment.crc32 == zlib.crc32(buffer._segments.bodies_of(segment))


def _rows(contents: Contents, columns: Columns) -> dict[str, list[Any]]:
    found = {name: columns[name].tolist() for name in COLUMN_DTYPES if name != "learner"}
    return found | {"learner_id": [contents.learners.ids[code] for code in columns["learner"].tolist()]}


def _states(contents: Contents) -> dict[int, tuple[Any, ...]]:
    return {id_: tuple(getattr(state, name) for name in _COUNTED) for id_, state in contents.states.items()}
