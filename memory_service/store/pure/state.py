"""What a buffer holds, as one value; a change makes another one of it.

Whoever takes a state has everything that it names at one moment. It never changes; what becomes of it is another
state, which shares what is the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from memory_format import NotFoundError
from memory_service.store.pure import tallies
from memory_service.store.pure.change import Change, Leaving, Move, Written
from memory_service.store.pure.columns import ROW_DTYPE, Arrays, Columns, Rows, charge_of
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.revised import joined, pruned
from memory_service.store.pure.tallies import SegmentState, tallies_of
from memory_service.store.pure.visibility import Pinned, records_shown, shown_by
from memory_service.store.pure.words import Words


@dataclass(frozen=True)
class Life:
    """What became of a record."""

    died: int | None
    """The version at which it ceased to be live; None where it is."""
    revision: int
    """How often its arrays were replaced in all, as far as somebody shows it."""
    shown_in: list[tuple[Snapshot, int]]
    """Snapshots that show it, oldest first, each with how often its arrays were replaced by then."""


@dataclass(frozen=True)
class State:
    """A buffer after one change."""

    config: BufferConfig
    columns: Columns
    """The live records."""
    pinned: Pinned
    segments: Mapping[int, SegmentState]
    """By id: those of which the buffer holds anything."""
    snapshots: Mapping[str, Snapshot]
    classes: frozenset[int]
    """Classes that it was ever offered."""
    names: Mapping[int, str]
    """Class id -> name."""
    words: Words | None
    """Those of its vocabulary; None where nobody has said them."""
    counts: IndexRows
    next_id: int
    """The exemplar id that comes next."""
    number: int
    """Of the last change of the index that this state has seen."""
    leased: Mapping[str, Snapshot] = field(default_factory=dict)
    """Snapshots that live as long as somebody reads them, and are not in the index. Their names are no names of
    snapshots."""

    @property
    def version(self) -> int:
        return self.columns.version

    @property
    def held(self) -> tuple[Columns, Columns]:
        """All records that it has: live ones, and those that only snapshots show."""
        return self.columns, self.pinned.columns

    @property
    def marks(self) -> list[Snapshot]:
        """All that pins records: snapshots and leases."""
        return [*self.snapshots.values(), *self.leased.values()]

    def snapshot(self, name: str) -> Snapshot:
        """A snapshot, or what is leased, by name. Raises ``NotFoundError`` (``unknown_snapshot``)."""
        found = self.marked(name)
        if found is None:
            raise NotFoundError(f"there is no snapshot {name!r} of this buffer", code="unknown_snapshot")
        return found

    def marked(self, name: str) -> Snapshot | None:
        """A snapshot, or what is leased, of that name."""
        return self.snapshots.get(name) or self.leased.get(name)

    def mark(self, name: str, created_at: float, number: int) -> Snapshot:
        """What it shows now, as a snapshot."""
        counted = (self.columns.num_records, self.columns.bytes_used)
        return Snapshot(name, self.version, self.next_id, *counted, created_at, number)

    def life_of(self, exemplar_id: int) -> Life:
        """What became of a record since it was pushed; nothing, of an id that nobody shows."""
        asked, shown, pinned = np.array([exemplar_id], dtype=np.uint64), self.columns.shown, self.pinned.columns
        # Of one whose arrays were replaced, several are pinned.
        places = np.flatnonzero(pinned.shown_ids == asked)
        places = places[np.argsort(self.pinned.died[places])]
        deaths = self.pinned.died[places].tolist()
        revisions = [*pinned.revisions(pinned["exemplar_id"][places]).tolist(), *shown.revisions(asked).tolist()]
        lives = shown.positions_of(asked)[0] >= 0
        ended = deaths[-1] if deaths else 0
        marks = _by_age(
            mark
            for mark in self.snapshots.values()
            if exemplar_id < mark.next_exemplar_id and (lives or mark.version < ended)
        )
        shown_in = [(mark, revisions[bisect_right(deaths, mark.version)]) for mark in marks]
        return Life(None if lives or not deaths else ended, max(revisions), shown_in)

    def num_shown(self, snapshot: Snapshot) -> int:
        """How many records a snapshot shows."""
        live = self.columns["exemplar_id"] < snapshot.next_exemplar_id
        return int(live.sum() + self.pinned.shown_by([snapshot]).sum())

    def shown_by(self, snapshot: Snapshot, changed: Arrays) -> Columns:
        """The records that a snapshot shows: see :func:`~memory_service.store.pure.visibility.records_shown`."""
        return records_shown(self.columns, self.pinned, snapshot, changed)

    # What the disk holds

    @cached_property
    def file_bytes(self) -> int:
        return sum(segment.file_bytes for segment in self.segments.values())

    @cached_property
    def index_bytes(self) -> int:
        segments = self.segments.values()
        dead, open_bytes = sum(segment.num_dead for segment in segments), sum(s.open_bytes for s in segments)
        return self.counts.num_bytes(segments=len(segments), dead=dead) + open_bytes

    @property
    def disk_bytes(self) -> int:
        """All that is on disk for the buffer, but files that are there for readers alone."""
        return self.file_bytes + self.index_bytes

    @property
    def pinned_bytes(self) -> int:
        return sum(segment.pinned.bytes for segment in self.segments.values())

    @property
    def dead_bytes(self) -> int:
        """What nobody can read any more."""
        return sum(segment.dead_bytes for segment in self.segments.values())

    def held_after(self, change: Change) -> int:
        """Charges of what is live or what snapshots hold once a change is made that adds nothing."""
        snapshots = [snapshot for snapshot in self.snapshots.values() if snapshot not in change.dropped]
        leaving = self.columns.take(change.dead)
        charge = charge_of(leaving["length"])
        staying = self.columns.bytes_used - int(charge.sum())
        newly = int(charge[shown_by(leaving["exemplar_id"], change.died, snapshots)].sum())
        return staying + newly + int(self.pinned.columns.charge[self.pinned.shown_by(snapshots)].sum())

    # What becomes of it

    def change(self, **what: Any) -> Change:
        """A change of it that does what is said, by fields of :class:`Change`, and nothing else."""
        return replace(Change(self.version, self.next_id, self.config), **what)

    def is_answer_alone(self, change: Change) -> bool:
        """Whether a change is the answer to a push of which nothing was kept."""
        same = (change.version, change.next_id, change.config) == (self.version, self.next_id, self.config)
        parts = (change.bodies, change.rescored, change.classes, change.names)
        return (
            same
            and change.snapshot is None
            and change.joins is None
            and change.leaves is None
            and change.words is None
            and not change.removes
            and not any(len(part) for part in parts)
        )

    def leaving(self, change: Change) -> Leaving:
        """What a change takes out."""
        if not change.removes:
            nothing = np.zeros(0, ROW_DTYPE)
            return Leaving(nothing, np.zeros(0, bool), np.zeros(len(self.pinned.died), bool), nothing)
        live = self.columns.take(change.dead)
        marks = [mark for mark in self.marks if mark not in change.dropped]
        pinned = shown_by(live["exemplar_id"], change.died, marks)
        # Pinned records that no snapshot will show.
        freed = ~self.pinned.shown_by(marks) if change.dropped else np.zeros(len(self.pinned.died), bool)
        freed[change.freed] = True
        return Leaving(live, pinned, freed, self.pinned.columns.take(np.flatnonzero(freed)))

    def after(self, change: Change, written: Written, leaving: Leaving | None = None) -> State:
        """The state once a change is made, of which :meth:`leaving` may be known already."""
        leaving = leaving or self.leaving(change)
        columns = self.columns
        if len(change.rescored):
            columns = columns.rescored(change.version, change.rescored, change.score, change.rank)
        if len(change.dead):
            keep = np.ones(columns.num_records, dtype=bool)
            keep[change.dead] = False
            columns = columns.kept(change.version, keep)
        columns = columns.appended(change.version, written.new)
        pinned = self.pinned.kept(~leaving.freed)
        newly = leaving.live[leaving.pinned]
        pinned = pinned.joined(newly, change.died[leaving.pinned])
        revised = joined(columns.revised, change.revised)
        revised = pruned(revised, columns["exemplar_id"], pinned.columns["exemplar_id"])
        if revised is not columns.revised:
            columns, pinned = replace(columns, revised=revised), pinned.revised_by(revised)
        dropped = {snapshot.name for snapshot in change.dropped}
        snapshots = {name: mark for name, mark in self.snapshots.items() if name not in dropped}
        snapshots |= {mark.name: mark for mark in change.less}
        if change.snapshot is not None:
            snapshots[change.snapshot.name] = change.snapshot
        return State(
            config=change.config,
            columns=columns,
            pinned=pinned,
            segments=self._segments_after(written, leaving, newly),
            snapshots=snapshots,
            classes=self.classes | change.classes,
            names={**self.names, **change.names} if change.names else self.names,
            words=change.words or (self.words if change.config.vocabulary == self.config.vocabulary else None),
            counts=written.counts,
            next_id=change.next_id,
            number=written.number,
            leased={name: mark for name, mark in self.leased.items() if name not in dropped},
        )

    def _segments_after(self, written: Written, leaving: Leaving, newly: Rows) -> dict[int, SegmentState]:
        segments = dict(self.segments)
        segments.update((segment.id, segment) for segment in written.segments)
        left, lost = tallies_of(leaving.live), tallies_of(leaving.lost)
        tallies.add(segments, tallies_of(written.new), tallies_of(newly))
        tallies.take_off(segments, left, lost)
        for id_ in left.keys() | lost.keys():
            if not segments[id_].held.records:
                del segments[id_]
        return segments

    def after_move(self, move: Move) -> State:
        """The state once a segment is rewritten."""
        segments = dict(self.segments)
        segments.update((segment.id, segment) for segment in move.segments)
        tallies.add(segments, tallies_of(move.live), tallies_of(move.pinned))
        del segments[move.gone]
        return replace(
            self,
            columns=moved(self.columns, move),
            pinned=Pinned(moved(self.pinned.columns, move), self.pinned.died),
            segments=segments,
            number=move.number,
        )

    def after_sealing(self, sealed: SegmentState, number: int) -> State:
        """The state once an open segment is sealed."""
        return replace(self, segments={**self.segments, sealed.id: sealed}, number=number)


def _by_age(marks: Iterable[Snapshot]) -> list[Snapshot]:
    return sorted(marks, key=lambda mark: mark.number)


def moved(columns: Columns, move: Move) -> Columns:
    """Columns whose records lie where a rewritten segment's are now."""
    for records in (move.live, move.pinned):
        positions = columns.positions_of(records["exemplar_id"])
        found = positions >= 0
        if found.any():
            columns = columns.moved(positions[found], records["segment"][found], records["offset"][found])
    return columns
