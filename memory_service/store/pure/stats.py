"""Figures of a buffer, all of one moment, and what differs between two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memory_format.api.answers import BufferStats, ClassStats, Diff, Side
from memory_format.api.terms import MAX_DIFF_IDS
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.state import State


def stats(
    state: State, learner_ids: Sequence[str], *, held_bytes: int, pushes: int, samples: int, orphans: int
) -> BufferStats:
    """Figures of the live records, and of what is on disk.

    Args:
        learner_ids: what the columns' ``learner`` points into.
        held_bytes: files that are on the disk for readers alone.
        pushes, samples: since the store was opened.
        orphans: files of the store that could not be removed.
    """
    config, columns, segments = state.config, state.columns, state.segments.values()
    budget, used, num = config.budget_bytes, columns.bytes_used, columns.num_records
    classes = class_stats(columns)
    return BufferStats(
        budget_bytes=budget,
        bytes_used=used,
        bytes_free=budget - used,
        utilization=used / budget,
        num_records=num,
        num_classes=len(classes),
        num_classes_seen=len(state.classes),
        bytes_per_exemplar=used / num if num else None,
        classes=classes,
        phases=_counts(columns["phase"]),
        learners={learner_ids[code]: count for code, count in _counts(columns["learner"]).items()},
        disk_limit_bytes=config.disk_limit_bytes,
        disk_bytes=state.disk_bytes + held_bytes,
        dead_bytes=sum(segment.dead_bytes for segment in segments),
        pinned_bytes=state.pinned_bytes,
        held_bytes=held_bytes,
        index_bytes=state.index_bytes,
        segments=len(segments),
        open_segments=sum(not segment.sealed for segment in segments),
        orphans=orphans,
        snapshots=len(state.snapshots),
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


def diff(before: Columns, after: Columns) -> Diff:
    """Records are told apart by their ids, which are never used twice."""
    return Diff(
        from_version=before.version,
        to_version=after.version,
        added=_only_in(after, before),
        evicted=_only_in(before, after),
    )


def _only_in(these: Columns, those: Columns) -> Side:
    alone = these.kept(these.version, those.positions_of(these["exemplar_id"]) < 0)
    return Side(
        count=alone.num_records,
        bytes=alone.bytes_used,
        classes=class_stats(alone),
        exemplar_ids=tuple(alone["exemplar_id"][:MAX_DIFF_IDS].tolist()),
    )
