"""Snapshots: their names, what differs between two, and buffers that start from one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from memory_format import FormatError
from memory_service.store import index, rows
from memory_service.store.columns import Columns
from memory_service.store.contents import Contents
from memory_service.store.model import Snapshot
from memory_service.store.stats import ClassStats, class_stats

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


def share(connection: sa.Connection, source_id: int, fork_id: int, contents: Contents, view: Columns) -> None:
    """Make the rows by which a fork consists of its source's sealed segments and holds what ``view`` shows of
    them.

    Args:
        contents: of the source.
    """
    states = [contents.states[id_] for id_ in np.unique(view["segment"]).tolist()]
    shared = [state for state in states if state.sealed]
    for state in shared:
        connection.execute(index.buffer_segments.insert(), {"buffer_id": fork_id, "segment_id": state.id})
        held = view["exemplar_id"][view["segment"] == state.id]
        stored = contents.ids_in(state)
        dead = stored[~np.isin(stored, held)]
        values = {"buffer_id": fork_id, "segment_id": state.id, "version": 0}
        if len(dead):
            connection.execute(index.deaths.insert(), [{**values, "exemplar_id": id_} for id_ in dead.tolist()])
    scored = rows.scored(connection, source_id, view["exemplar_id"].tolist()) if contents.index_rows.scores else set()
    taken = view.take(view.positions_of(np.array(sorted(scored), dtype=np.uint64)))
    changed = zip(*(taken[name].tolist() for name in ("exemplar_id", "score", "rank")), strict=True)
    rows.write_scores(
        connection,
        fork_id,
        [{"exemplar_id": id_, "version": 0, "score": score, "rank": rank} for id_, score, rank in changed],
    )
    seen = [{"buffer_id": fork_id, "class_id": class_id} for class_id in sorted(contents.classes)]
    if seen:
        connection.execute(index.classes.insert(), seen)
