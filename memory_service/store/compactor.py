"""Rewrites segments, so that what is dead in them takes no room."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_format import StorageError
from memory_service.store.contents import Contents
from memory_service.store.index.base import BufferEntry
from memory_service.store.loading import Purpose
from memory_service.store.pure.change import Change, Move
from memory_service.store.pure.columns import concatenated
from memory_service.store.pure.ledger import store_share
from memory_service.store.pure.news import Wrote
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState, Tally, worth_rewriting
from memory_service.store.room import NEW_FILE, frame_overhead, segment_bytes
from memory_service.store.segments import appending
from memory_service.store.segments.layout import frame_bytes
from memory_service.store.segments.owner import owner_of
from memory_service.store.writer import InFlight, Writer

logger = logging.getLogger(__name__)


class Compactor:
    """Compacts one buffer. For the holder of the buffer's lock."""

    def __init__(self, contents: Contents, writer: Writer) -> None:
        self._contents = contents
        self._writer = writer
        self._options = contents.options
        self._spoilt: set[int] = set()
        """Ids of segments in which a record failed its CRC: they cannot be moved."""

    def used(self, limit: int) -> int:
        """Bytes on disk that count against a disk limit."""
        return self._contents.disk_bytes + store_share(replace(self._contents.state.config, given_disk_limit=limit))

    def compact_one(self, limit: int) -> int:
        """Rewrite the segment that is worth it most; returns the bytes moved, 0 where none is. Raises ``StorageError``:
        it could not be rewritten. Nothing has changed then."""
        return self._compact(limit, self._contents.state.segments.values())

    def separate_one(self, change: Change, foreseen: State) -> bool:
        """Rewrite the segment that is worth it most in the state foreseen after a change, what leaves by it apart from
        what stays; returns whether there was one. Raises as :meth:`compact_one`."""
        state = self._contents.state
        leaving = state.leaving(change)
        goes = np.zeros(state.columns.num_records, dtype=bool)
        goes[change.dead[~leaving.pinned]] = True
        tallies = {id_: state.segments[id_].held - segment.held for id_, segment in foreseen.segments.items()}
        limit = state.config.disk_limit_bytes
        return self._compact(limit, foreseen.segments.values(), tallies, goes, leaving.freed) > 0

    def _compact(
        self,
        limit: int,
        segments: Iterable[SegmentState],
        leaving: Mapping[int, Tally] | None = None,
        goes: NDArray[np.bool_] | None = None,
        freed: NDArray[np.bool_] | None = None,
    ) -> int:
        """:meth:`compact_one` of some segments, which may be those to come.

        Args:
            leaving: segment id -> what will have left it.
            goes, freed: which live and which pinned records are to lie apart from the others.
        """
        full = segment_bytes(self._contents.state.config, self._options)
        while True:
            new_files = NEW_FILE * (1 if goes is None else 2)
            room = limit - self.used(limit) - self._sealing_bytes(full) - new_files
            overhead = frame_overhead(full)
            chosen = worth_rewriting(segments, room, overhead, leaving=leaving, spoilt=self._spoilt)
            if chosen is None:
                return 0
            try:
                return self.rewrite(self._contents.state.segments[chosen.id], goes, freed)
            except StorageError as error:
                if error.code != "corrupt_record":
                    raise
                logger.error("segment %s is not rewritten: %s", chosen.stem, error.message)
                self._spoilt.add(chosen.id)

    def _sealing_bytes(self, full: int) -> int:
        """What is added where the records moved fill their segment: the frame of those it has already."""
        if full < appending.SMALLEST_SEALED:
            return 0
        growing = [segment for purpose, (_, segment) in self._writer.growing.items() if purpose != "pushed"]
        return sum(frame_bytes(segment.num_records, segment.learners) for segment in growing)

    def rewrite(
        self, segment: SegmentState, goes: NDArray[np.bool_] | None = None, freed: NDArray[np.bool_] | None = None
    ) -> int:
        """Move what a buffer holds of a segment elsewhere, and let go of it; returns the bytes moved, at least 1.

        Args:
            goes, freed: see :meth:`_compact`.

        Raises:
            StorageError: a record is damaged, or nothing can be written.
        """
        state = self._contents.state
        live = np.flatnonzero(state.columns["segment"] == segment.id)
        pinned = np.flatnonzero(state.pinned.columns["segment"] == segment.id)
        moved = concatenated([state.columns.take(live), state.pinned.columns.take(pinned)])
        is_pinned = np.arange(len(live) + len(pinned)) >= len(live)
        died = np.concatenate([np.zeros(len(live), np.uint64), state.pinned.died[pinned]])
        leaves = np.zeros(len(is_pinned), bool)
        if goes is not None and freed is not None:
            leaves = np.concatenate([goes[live], freed[pinned]])
        bodies = self._contents.bodies_here(moved)
        # A segment that is rewritten is not one to go on with.
        self._writer.close(segment.id)
        places: dict[Purpose, NDArray[np.int64]] = {"moved": np.flatnonzero(~leaves), "leaving": np.flatnonzero(leaves)}
        owner = owner_of(state.config, state.version, state.next_id)
        in_flight: dict[Purpose, InFlight] = {}
        written: list[SegmentState] = []
        with ExitStack() as stack:
            for purpose, of in places.items():
                of_it = [bodies[i] for i in of.tolist()]
                in_flight[purpose] = stack.enter_context(self._writer.write(moved.take(of), of_it, purpose, owner))
            with self._contents.index.writing() as transaction:
                for purpose, flight in in_flight.items():
                    written += flight.note(transaction, state.config.id, state.segments)
                    was = is_pinned[places[purpose]]
                    transaction.insert_deaths(state.config.id, flight.new[was], died[places[purpose]][was])
                orphaned = transaction.drop_segments(state.config.id, [segment])
                for flight in in_flight.values() if state.counts.revisions else ():
                    state = self._writer.with_revisions(transaction, state, flight, state.columns.revised)
                figures = (state.version, state.next_id, state.columns.bytes_used, state.columns.num_records)
                transaction.update_figures(state.version, BufferEntry(state.config, *figures))
                for purpose, flight in in_flight.items():
                    for name in ("segment", "offset"):
                        moved[name][places[purpose]] = flight.new[name]
                move = Move(
                    gone=segment.id,
                    live=moved[~is_pinned],
                    pinned=moved[is_pinned],
                    segments=written,
                    number=self._writer.number_after(transaction),
                )
                after = state.after_move(move)
                self._writer.tell(transaction, state, state.change(), after, _wrote(in_flight.values()), segment.id)
            for flight in in_flight.values():
                flight.committed()
        self._contents.become(after, move)
        for flight in in_flight.values():
            flight.noted()
        self._writer.forget([segment], orphaned)
        return max(sum(map(len, bodies)), 1)


def _wrote(in_flight: Iterable[InFlight]) -> Wrote:
    flights = list(in_flight)
    ids = [id_ for flight in flights for id_ in flight.ids]
    return Wrote(
        concatenated([flight.new for flight in flights]), ids, [id_ for flight in flights for id_ in flight.full]
    )
