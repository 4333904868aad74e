"""Snapshots: their names, and what differs between two."""

from __future__ import annotations

from collections.abc import Mapping

from memory_format import FormatError
from memory_format.api.answers import Diff, Side
from memory_format.api.terms import MAX_DIFF_IDS, NAME_PATTERN
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.stats import class_stats


def check_name(name: str) -> None:
    """Raises:
    FormatError: ``invalid_request``.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise FormatError(
            f"a name is 1..63 of a-z 0-9 . _ - and begins with a letter or digit, got {name!r}",
            code="invalid_request",
        )


def oldest(snapshots: Mapping[str, Snapshot], count: int) -> list[Snapshot]:
    return sorted(snapshots.values(), key=lambda snapshot: snapshot.number)[:count]


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
