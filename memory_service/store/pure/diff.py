"""What differs between two states of a buffer."""

from __future__ import annotations

from memory_format.api.answers import Diff, Side
from memory_format.api.terms import MAX_DIFF_IDS
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.stats import class_stats


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
