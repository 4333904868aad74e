"""Which records a snapshot shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_service.store.pure.columns import Arrays, Columns, Rows, concatenated
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.revised import Revised


@dataclass(frozen=True)
class Pinned:
    """Records that the buffer no longer holds and a snapshot does."""

    columns: Columns
    died: NDArray[np.uint64]
    """The version at which each ceased to be live, ``(P,)``."""

    @classmethod
    def of(cls, records: Rows, died: NDArray[np.uint64], revised: Revised) -> Pinned:
        """From records in any order."""
        order = np.argsort(records["exemplar_id"], kind="stable")
        return cls(Columns.of_rows(0, records, revised=revised), died[order])

    def joined(self, records: Rows, died: NDArray[np.uint64]) -> Pinned:
        """With more of them."""
        if not len(died):
            return self
        mine = self.columns.take(np.arange(self.columns.num_records))
        return Pinned.of(concatenated([mine, records]), np.concatenate([self.died, died]), self.columns.revised)

    def revised_by(self, revised: Revised) -> Pinned:
        """With that table of what replaced what."""
        return (
            self if revised is self.columns.revised else replace(self, columns=replace(self.columns, revised=revised))
        )

    def kept(self, keep: NDArray[np.bool_]) -> Pinned:
        """With only those where ``keep``, ``(P,)``, is true."""
        return self if keep.all() else Pinned(self.columns.kept(0, keep), self.died[keep])

    def shown_by(self, snapshots: Sequence[Snapshot]) -> NDArray[np.bool_]:
        """Which of them at least one of the snapshots shows."""
        return shown_by(self.columns["exemplar_id"], self.died, snapshots)


def shown_by(
    exemplar_id: NDArray[np.uint64], died: NDArray[np.uint64], snapshots: Sequence[Snapshot]
) -> NDArray[np.bool_]:
    """Which dead records a snapshot shows: those born before it that died after it."""
    if not len(died) or not snapshots:
        return np.zeros(len(died), dtype=bool)
    # Of the snapshots after a birth the oldest decides: so hundreds of them cost no more than one.
    marks = np.array(sorted((mark.next_exemplar_id, mark.version) for mark in snapshots), dtype=np.uint64)
    oldest = np.minimum.accumulate(marks[::-1, 1])[::-1]
    following = np.searchsorted(marks[:, 0], exemplar_id, side="right")
    shown: NDArray[np.bool_] = np.append(oldest, np.iinfo(np.uint64).max)[following] < died
    return shown


def records_shown(columns: Columns, pinned: Pinned, snapshot: Snapshot, changed: Arrays) -> Columns:
    """The records that a snapshot shows.

    Args:
        columns: the live records.
        changed: ``exemplar_id``, ``score`` and ``rank`` as they were then, of records that were changed since.
    """
    live = columns.take(np.flatnonzero(columns["exemplar_id"] < snapshot.next_exemplar_id))
    dead = pinned.columns.take(np.flatnonzero(pinned.shown_by([snapshot])))
    view = Columns.of_rows(snapshot.version, concatenated([live, dead]), revised=columns.revised)
    view.set_scores(changed)
    return view


def oldest(snapshots: Mapping[str, Snapshot], count: int) -> list[Snapshot]:
    """The first so many that were taken."""
    return sorted(snapshots.values(), key=lambda snapshot: snapshot.number)[:count]
