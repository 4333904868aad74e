"""Puts a buffer's records into its segments, and takes back what no transaction has confirmed."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from memory_format import StorageError
from memory_format.wire import Batch
from memory_service.store.contents import Contents
from memory_service.store.index import news
from memory_service.store.index.base import Writing
from memory_service.store.loading import Growing, Purpose, SealedSegments, growing_of, load
from memory_service.store.pure.change import Change
from memory_service.store.pure.columns import Rows, headers_of_rows
from memory_service.store.pure.news import News, Wrote, packed
from memory_service.store.pure.revised import Revised
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.room import segment_bytes
from memory_service.store.segments.appending import Part, empty
from memory_service.store.segments.base import SegmentGoneError

logger = logging.getLogger(__name__)


class Writer:
    """The segments that one buffer writes to, open ones to go on with first. For the holder of the buffer's lock."""

    def __init__(self, contents: Contents, growing: dict[Purpose, Growing]) -> None:
        self.growing = growing
        self._contents = contents
        self._index = contents.index
        self._segments = contents.segments
        self._unsettled: list[Part] | None = None
        """What was written when it could not be found out whether it was committed."""
        self.on_reload: Callable[[], object] = lambda: None
        """Called where others have changed the buffer."""
        self._sealed = SealedSegments(contents.segments)
        """Those that were read, where the index is shared: others are added to them again and again."""

    @contextmanager
    def write(
        self, new: Rows, bodies: list[memoryview], purpose: Purpose, owner: Mapping[str, Any]
    ) -> Iterator[InFlight]:
        """Write records, durably; where the block raises they are taken back, unless they were committed. Raises
        ``StorageError``: they could not be written."""
        growing = self.growing.get(purpose)
        new = new.copy()
        parts: list[Part] = []
        if len(bodies):
            try:
                batch = Batch(headers_of_rows(new), self._contents.learner_ids(new), bodies)
                full = segment_bytes(self._contents.state.config, self._contents.options)
                parts = self._segments.append(growing and growing.segment, batch, segment_bytes=full, owner=owner)
            except StorageError:
                # What was not written well is not gone on with: a failed fsync may be reported once only.
                self.growing.pop(purpose, None)
                raise
        flight = InFlight(self, purpose, growing, new, parts)
        try:
            yield flight
        except BaseException:
            if not flight.is_committed:
                self.recover(parts)
            raise

    def number_after(self, transaction: Writing) -> int:
        """The number that the state has seen once a transaction is committed: no more than before where others have
        changed the index in between, or it is not counted."""
        seen, number = self._contents.state.number, transaction.changed_to
        return number if number is not None and self._index.made_here(seen, number - 1) else seen

    def with_revisions(self, transaction: Writing, after: State, flight: InFlight, revised: Revised) -> State:
        """Tell the index which of the records in flight replace others; the state after that."""
        buffer_id = after.config.id
        for segment_id in np.unique(flight.new["segment"]).tolist():
            stored_ids = flight.new["exemplar_id"][flight.new["segment"] == segment_id]
            transaction.insert_revisions(buffer_id, segment_id, stored_ids, revised)
        return replace(after, counts=replace(after.counts, revisions=transaction.num_revised(buffer_id)))

    def close(self, segment_id: int) -> None:
        """Do not go on with a segment."""
        for purpose in [purpose for purpose, segment in self.growing.items() if segment.id == segment_id]:
            del self.growing[purpose]

    def noted(self, parts: Iterable[Part]) -> None:
        """The index knows of these, and so does the state."""
        self._segments.noted(parts)

    def forget(self, states: Iterable[SegmentState], orphaned: Iterable[str]) -> None:
        """Segments that the buffer has let go of, and the stems of those that nobody else has."""
        for state in states:
            self.close(state.id)
        self._segments.delete(orphaned)

    # When something fails

    def settle(self) -> None:
        """Find out what an earlier failure left, before anything is built on it. Raises ``StorageError``: it still
        cannot be found out."""
        if self._unsettled is not None:
            self._load(self._unsettled)
            self._unsettled = None

    def catch_up(self, number: int | None) -> None:
        """The same, and see what others have committed up to a change of the buffer; None: there are no others. Raises
        ``NotFoundError``: they have deleted it."""
        self.settle()
        if number != self._contents.state.number and self._index.is_shared:
            self.see(number)

    def see(self, number: int | None) -> None:
        """See what others have committed up to a change of the buffer: what is new alone where they have left it, else
        the whole buffer. Raises as :meth:`catch_up`."""
        if number is None or not self._follow(number):
            self.reload()

    def reload(self) -> None:
        """See what others have committed. Raises as :meth:`catch_up`; ``StorageError``."""
        self._load(())

    def tell(
        self, transaction: Writing, before: State, change: Change, after: State, wrote: Wrote, gone: int | None = None
    ) -> None:
        """Leave to other replicas, if there are any, what a transaction does: see :func:`news.packed`."""
        # What leases hold is known here alone; what is erased, nobody is to be told.
        if self._index.is_shared and not (before.leased or after.leased or change.less or len(change.freed)):
            told = packed(before, change, after, wrote, self._contents.learners, gone)
            news.insert(transaction, before.config.id, told)

    def recover(self, parts: Sequence[Part]) -> None:
        """A transaction has failed that was to note these: go on from what the index says."""
        self._unsettled = [*(self._unsettled or ()), *parts]
        try:
            self.settle()
        except (StorageError, SegmentGoneError):
            name = self._contents.state.config.name
            logger.exception("cannot tell whether a change of buffer %s was committed", name)

    def _load(self, unsettled: Sequence[Part]) -> None:
        contents, before, shared = self._contents, self._contents.state, self._index.is_shared
        with self._index.reading() as reading:
            rows = reading.contents(before.config.id).get(before.config.id)
            if rows is None and shared:
                contents.dropped = True
                contents.check_alive()
            if rows is None:
                raise StorageError(f"buffer {before.config.name!r} is not in the index any more")
            undone = reading.not_noted(unsettled)
            self._segments.undo(undone)
            if shared:
                self._segments.changed_elsewhere(rows.segments)
            sealed = self._sealed if shared else SealedSegments(self._segments)
            state, leased = None, before.leased
            while state is None or leased != state.leased:
                state = load(rows.entry, rows, sealed, contents.learners, leased)
                # Others know of no lease: what they have removed or erased since, it cannot show.
                lost = [name for name, mark in leased.items() if state.num_shown(mark) != mark.num_records]
                for name in lost:
                    contents.leases[name].end()
                leased = {name: mark for name, mark in leased.items() if name not in lost}
            stems = {segment.stem for segment in before.segments.values()}
            gone = stems - {segment.stem for segment in state.segments.values()}
            gone -= reading.known_stems(gone)
        contents.become(state)
        self.noted(part for part in unsettled if part not in undone)
        # They are made again when somebody asks.
        contents.views.clear()
        contents.selections.clear()
        gone -= {part.after.stem for part in undone}
        # A file that was not written well is not gone on with.
        self.growing.clear()
        if shared:
            self.on_reload()
            # Whoever let go of them removes them.
            self._segments.forget(gone)
            self._sealed.keep_only(segment.stem for segment in rows.segments)
            self.growing.update(growing_of(rows, self._segments))
        else:
            # Of a change that was committed and did not come to that.
            self._segments.delete(gone)

    def _follow(self, number: int) -> bool:
        """Make the changes that others have told of, up to that one; whether they are all known. Each state on the way
        is one that was."""
        contents, before = self._contents, self._contents.state
        if before.leased or self._unsettled is not None or number <= before.number:
            return False
        with self._index.reading(alone=True) as reading:
            told = news.following(reading, before.config.id, before.number)
        if before.number + len(told) < number:
            return False
        try:
            stems = {segment.stem for segment in before.segments.values()}
            for number, data in enumerate(told, before.number + 1):
                change = News(data)
                after, move = change.after(contents.state, contents.learners, number)
                segments = [segment for segment, _ in change.segments]
                stems |= {segment.stem for segment in segments}
                self._segments.changed_elsewhere(segments)
                self._go_on(change, contents.state)
                contents.become(after, move)
        except (ValueError, TypeError, LookupError, zlib.error) as error:
            logger.warning("buffer %s is read as a whole: %s", before.config.name, error)
            return False
        for growing in list(self.growing.values()):
            if growing.id not in contents.state.segments:
                self.close(growing.id)
        self.on_reload()
        gone = stems - {segment.stem for segment in contents.state.segments.values()}
        if gone:
            with self._index.reading(alone=True) as reading:
                gone -= reading.known_stems(gone)
            # Whoever let go of them removes them.
            self._segments.forget(gone)
        return True

    def _go_on(self, change: News, before: State) -> None:
        """Go on with open segments behind what others have put there."""
        for segment, full in change.segments:
            if full:
                self.close(segment.id)
                continue
            if segment.id not in before.segments and not change.is_move:
                self.growing["pushed"] = Growing(segment.id, empty(segment.stem))
            rows = change.rows[change.rows["segment"] == segment.id]
            learner_ids = [change.learners[place] for place in rows["learner"].tolist()]
            for purpose, (id_, known) in list(self.growing.items()):
                if id_ == segment.id:
                    grown, _ = known.with_more(headers_of_rows(rows), learner_ids, rows["length"].tolist())
                    self.growing[purpose] = Growing(id_, grown)


class InFlight:
    """Records that are on the disk, and not committed yet."""

    def __init__(
        self, writer: Writer, purpose: Purpose, growing: Growing | None, new: Rows, parts: Sequence[Part]
    ) -> None:
        self._writer = writer
        self._purpose = purpose
        self._growing = growing
        self._parts = parts
        self.ids: list[int] = []
        """Of the segments written to, once they are noted."""
        self.is_committed = False
        self.full: set[int] = set()
        """Ids of the segments that are full then."""
        self.new = new
        """:meth:`note` fills in where they are."""

    def note(self, transaction: Writing, buffer_id: int, known: Mapping[int, SegmentState]) -> list[SegmentState]:
        """Tell the index; returns the segments written to, of which the buffer knew ``known``, as they are then."""
        segments = []
        for part in self._parts:
            before = self._growing if part.before is not None else None
            id_ = transaction.write_part(buffer_id, before and before.id, part)
            self.new["segment"][part.first : part.last] = id_
            self.new["offset"][part.first : part.last] = part.offsets
            self.ids.append(id_)
            if part.full:
                self.full.add(id_)
            segments.append(grown(known.get(id_), id_, part))
        return segments

    def committed(self) -> None:
        """The transaction that was told of them is durable: go on with what is open."""
        for id_, part in zip(self.ids, self._parts, strict=True):
            self._writer.growing[self._purpose] = Growing(id_, part.after)
            if part.full:
                self._writer.close(id_)
        self.is_committed = True

    def noted(self) -> None:
        """And the state is one that names them."""
        self._writer.noted(self._parts)


def grown(known: SegmentState | None, id_: int, part: Part) -> SegmentState:
    """A segment after a part was written to it."""
    state = known or SegmentState(id_, part.after.stem, 0, 0, False)
    return replace(
        state,
        stem=part.after.stem,
        file_bytes=part.file_bytes,
        num_records=part.after.num_records,
        sealed=part.sealed,
        open_bytes=0 if part.sealed else state.open_bytes + part.open_bytes,
    )
