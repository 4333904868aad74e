"""Figures of a buffer, all of one moment, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_format.api.answers import BufferStats, ClassStats, Diff, Side
from memory_format.api.contents import FieldCount, FieldCounts
from memory_format.api.terms import MAX_DIFF_IDS
from memory_format.user_fields import FieldValue
from memory_service.store.pure.columns import Columns, Rows, charge_of
from memory_service.store.pure.field_index import FieldIndex
from memory_service.store.pure.selection import grouped
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
    classes = class_stats(columns, state.names)
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
        phases={phase: count for phase, count, _ in totals(columns, "phase").rows()},
        learners={learner_ids[code]: count for code, count, _ in totals(columns, "learner").rows()},
        disk_limit_bytes=config.disk_limit_bytes,
        disk_bytes=state.disk_bytes + held_bytes,
        dead_bytes=state.dead_bytes,
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


def class_stats(columns: Columns, names: Mapping[int, str]) -> tuple[ClassStats, ...]:
    """Records and bytes of each class, by class."""
    return tuple(ClassStats(*values, name=names.get(values[0])) for values in totals(columns, "class_id").rows())


@dataclass(frozen=True)
class Totals:
    """Records and bytes by some value of theirs, ``(G,)`` each, values ascending."""

    values: NDArray[np.unsignedinteger]
    counts: NDArray[np.int64]
    bytes: NDArray[np.int64]

    def rows(self, places: NDArray[np.int64] | None = None) -> Iterator[tuple[int, int, int]]:
        """Value, records and bytes of each, or of those at some places."""
        columns = (self.values, self.counts, self.bytes)
        return zip(*((column if places is None else column[places]).tolist() for column in columns), strict=True)


def totals(columns: Columns, name: str) -> Totals:
    """Records and bytes by ``class_id``, ``phase`` or ``learner``."""
    values = columns[name]
    order, starts = grouped(values)
    if not len(order):
        return Totals(values[:0], order, order)
    counts = np.diff(np.append(starts, len(order)))
    return Totals(values[order[starts]], counts, np.add.reduceat(columns.charge[order], starts))


def count_by(field: str, records: Rows, fields: FieldIndex, version: int, limit: int) -> FieldCounts:
    """Records and bytes by a field of the user's, the ``limit`` most frequent values first."""
    # One place more, the first, for records without it.
    codes = fields.codes(records["exemplar_id"], field) + 1
    values: list[FieldValue | None] = [None, *(fields.columns[field].values if field in fields.columns else ())]
    counts = np.bincount(codes, minlength=len(values))
    num_bytes = np.bincount(codes, charge_of(records["length"]), minlength=len(values)).astype(np.int64)
    present = np.flatnonzero(counts)
    first = sorted(present.tolist(), key=lambda code: (-counts[code], str(values[code])))[:limit]
    return FieldCounts(
        field=field,
        values=tuple(FieldCount(values[code], int(counts[code]), int(num_bytes[code])) for code in first),
        num_values=len(present),
        version=version,
    )


def diff(before: Columns, after: Columns, names: Mapping[int, str]) -> Diff:
    """Records are told apart by their ids, which are never used twice.

    Args:
        before, after: as they are shown.
    """
    return Diff(
        from_version=before.version,
        to_version=after.version,
        added=_only_in(after, before, names),
        evicted=_only_in(before, after, names),
        revised=_side(after, _revised_since(before, after), names),
    )


def _only_in(these: Columns, those: Columns, names: Mapping[int, str]) -> Side:
    return _side(these, those.positions_of(these["exemplar_id"]) < 0, names)


def _revised_since(before: Columns, after: Columns) -> NDArray[np.bool_]:
    """Which records of ``after`` are in both, and have other arrays."""
    positions = before.positions_of(after["exemplar_id"])
    both = np.flatnonzero(positions >= 0)
    ids = after["exemplar_id"][both]
    revised = np.zeros(after.num_records, dtype=bool)
    revised[both] = after.revisions(ids) != before.revisions(ids)
    return revised


def _side(these: Columns, which: NDArray[np.bool_], names: Mapping[int, str]) -> Side:
    alone = these.kept(these.version, which)
    return Side(
        count=alone.num_records,
        bytes=alone.bytes_used,
        classes=class_stats(alone, names),
        exemplar_ids=tuple(alone["exemplar_id"][:MAX_DIFF_IDS].tolist()),
    )
