"""Figures of a buffer, all of one moment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memory_format.api.answers import BufferStats, ClassStats
from memory_service.store.contents import Contents
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.model import BufferConfig


def stats(config: BufferConfig, contents: Contents, *, pushes: int, samples: int, orphans: int) -> BufferStats:
    """Figures of the live records, and of what is on disk. For the holder of the buffer's lock."""
    columns, states = contents.columns, list(contents.states.values())
    budget, used, num = config.budget_bytes, columns.bytes_used, columns.num_records
    classes = class_stats(columns)
    learner_ids = contents.learners.ids
    return BufferStats(
        budget_bytes=budget,
        bytes_used=used,
        bytes_free=budget - used,
        utilization=used / budget,
        num_records=num,
        num_classes=len(classes),
        num_classes_seen=len(contents.classes),
        bytes_per_exemplar=used / num if num else None,
        classes=classes,
        phases=_counts(columns["phase"]),
        learners={learner_ids[code]: count for code, count in _counts(columns["learner"]).items()},
        disk_limit_bytes=config.disk_limit_bytes,
        disk_bytes=contents.disk_bytes,
        dead_bytes=sum(state.dead_bytes for state in states),
        pinned_bytes=sum(state.pinned_bytes for state in states),
        held_bytes=contents.readers.held_bytes,
        index_bytes=contents.index_bytes,
        segments=len(states),
        open_segments=sum(not state.sealed for state in states),
        orphans=orphans,
        snapshots=len(contents.snapshots),
        version=columns.version,
        pushes=pushes,
        samples=samples,
    )


def class_stats(columns: Columns) -> tuple[ClassStats, ...]:
    """Records and bytes of each class, by class."""
    class_ids, inverse, counts = np.unique(columns["class_id"], return_inverse=True, return_counts=True)
    class_bytes = np.zeros(len(class_ids), dtype=np.int64)
    np.add.at(class_bytes, inverse, columns.charge)
    by_class = zip(class_ids.tolist(), counts.tolist(), class_bytes.tolist(), strict=True)
    return tuple(ClassStats(*values) for values in by_class)


def _counts(values: NDArray[np.unsignedinteger]) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
