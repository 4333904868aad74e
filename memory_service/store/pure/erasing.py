"""Which records are erased, and what that does to a buffer. Pure functions of values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_service.store.pure.change import Change
from memory_service.store.pure.columns import Columns, Rows, charge_of
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.state import State
from memory_service.store.pure.visibility import shown_by

TARGET_DTYPE: Final = np.dtype([("exemplar_id", "<u8"), ("crc32", "<u4"), ("length", "<u4")])
"""A record that is erased: the same in every buffer that was forked from its own, wherever it was moved."""

Targets = NDArray[np.void]
"""``(T,)`` of :data:`TARGET_DTYPE`, each once."""

NO_TARGETS: Final[Targets] = np.zeros(0, TARGET_DTYPE)


def targets_of(rows: Rows | Targets) -> Targets:
    """Records as what is to be erased, each once."""
    found = np.zeros(len(rows), TARGET_DTYPE)
    for name in TARGET_DTYPE.names or ():
        found[name] = rows[name]
    return np.unique(found)


def places_of(targets: Targets, among: Columns | Rows) -> NDArray[np.int64]:
    """Where those records are, ascending."""
    places = np.flatnonzero(np.isin(among["exemplar_id"], targets["exemplar_id"]))
    found = np.zeros(len(places), TARGET_DTYPE)
    for name in TARGET_DTYPE.names or ():
        found[name] = among[name][places]
    return places[np.isin(found, targets)]


def same_bodies(targets: Targets, among: Columns | Rows) -> NDArray[np.bool_]:
    """Which records have the bytes of one of those, whatever their ids are."""
    return np.isin(_body_of(among), _body_of(targets))


def _body_of(records: Any) -> NDArray[np.uint64]:
    found: NDArray[np.uint64] = records["crc32"].astype(np.uint64) << np.uint64(32)
    found |= records["length"].astype(np.uint64)
    return found


def erasing(state: State, live: NDArray[np.int64], pinned: NDArray[np.int64]) -> Change:
    """Take records out of a buffer and of all its snapshots.

    Args:
        live, pinned: places of live records, and of those that only snapshots hold, ascending.
    """
    version = state.version + bool(len(live))
    leaving, held = state.columns.take(live), state.pinned.columns.take(pinned)
    died = state.pinned.died[pinned]

    def lost_to(mark: Snapshot) -> NDArray[np.int64]:
        """Charges of those of them that it shows."""
        of_live = leaving["length"][leaving["exemplar_id"] < mark.next_exemplar_id]
        return charge_of(np.concatenate([of_live, held["length"][shown_by(held["exemplar_id"], died, [mark])]]))

    def without(mark: Snapshot) -> Snapshot:
        lost = lost_to(mark)
        count, num_bytes = mark.num_records - len(lost), mark.bytes_used - int(lost.sum())
        return replace(mark, num_records=count, bytes_used=num_bytes, erased=mark.erased + len(lost))

    return state.change(
        version=version,
        dead=live,
        # As if they had died before any snapshot: none goes on showing them.
        died=np.zeros(len(live), np.uint64),
        freed=pinned,
        less=[without(mark) for mark in state.snapshots.values() if len(lost_to(mark))],
        dropped=[mark for mark in state.leased.values() if len(lost_to(mark))],
    )
