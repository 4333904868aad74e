"""Snapshots: their names, and what differs between two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memory_format import FormatError
from memory_service.store.pure.columns import Columns
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.stats import ClassStats, class_stats

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_DIFF_IDS = 10_000


@dataclass(frozen=True)
class Side:
    """Records that only one of two states holds."""

    count: int
    bytes: int
    classes: list[ClassStats]
    exemplar_ids: list[int]
    """The first :data:`MAX_DIFF_IDS` of them."""


@dataclass(frozen=True)
class Diff:
    """What came and went between two versions."""

    from_version: int
    to_version: int
    added: Side
    evicted: Side


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
        exemplar_ids=alone["exemplar_id"][:MAX_DIFF_IDS].astype(np.int64).tolist(),
    )
