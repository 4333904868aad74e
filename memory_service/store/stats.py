"""Figures of a buffer, all of one moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_service.store.buffer import Buffer


@dataclass(frozen=True)
class ClassStats:
    class_id: int
    count: int
    bytes: int


@dataclass(frozen=True)
class BufferStats:
    """See docs/service.md for each figure."""

    budget_bytes: int
    bytes_used: int
    bytes_free: int
    utilization: float
    num_records: int
    num_classes: int
    bytes_per_exemplar: float | None
    classes: list[ClassStats]
    phases: dict[int, int]
    learners: dict[str, int]
    segments: int
    disk_bytes: int
    dead_bytes: int
    version: int
    pushes: int
    samples: int


def stats(buffer: Buffer) -> BufferStats:
    """Figures of the live records, and of the files that hold them."""
    columns = buffer.contents.columns
    states = list(buffer.contents.states.values())
    budget, used, num = buffer.config.budget_bytes, columns.bytes_used, columns.num_records
    class_ids, inverse, counts = np.unique(columns["class_id"], return_inverse=True, return_counts=True)
    class_bytes = np.zeros(len(class_ids), dtype=np.int64)
    np.add.at(class_bytes, inverse, columns.charge)
    by_class = zip(class_ids.tolist(), counts.tolist(), class_bytes.tolist(), strict=True)
    learner_ids = buffer.contents.learners.ids
    return BufferStats(
        budget_bytes=budget,
        bytes_used=used,
        bytes_free=budget - used,
        utilization=used / budget,
        num_records=num,
        num_classes=len(class_ids),
        bytes_per_exemplar=used / num if num else None,
        classes=[ClassStats(*values) for values in by_class],
        phases=_counts(columns["phase"]),
        learners={learner_ids[code]: count for code, count in _counts(columns["learner"]).items()},
        segments=len(states),
        disk_bytes=sum(state.file_bytes for state in states),
        dead_bytes=sum(state.dead_bytes for state in states),
        version=columns.version,
        pushes=buffer.pushes,
        samples=buffer.samples,
    )


def _counts(values: NDArray[np.unsignedinteger]) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
