"""What a buffer holds now, and how a row of its columns becomes bytes again."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_format import NotFoundError, StorageError
from memory_format.body import most_id_bytes, prefix_bytes
from memory_format.header import FLAG_PARTS
from memory_service.store.index.base import Index
from memory_service.store.known_fields import KnownFields
from memory_service.store.pure import selection
from memory_service.store.pure.change import Move
from memory_service.store.pure.columns import Columns, Learners, Rows
from memory_service.store.pure.model import Options, Snapshot
from memory_service.store.pure.revised import shown_ids
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.state import State, moved
from memory_service.store.segments.base import Place, SegmentGoneError, Segments
from memory_service.store.segments.readers import HeldLease, LeaseT, LentLease, PinningLease, Readers

_HELD_AT_A_TIME = 16
"""Segments that a thread has open beside those that are kept open anyway."""
_SELECTIONS_KEPT = 16
_VIEWS_KEPT = 4


class Contents:
    """The present state of one buffer, where it is stored, and what is kept beside it for those who read.

    :attr:`state` is another one after each change, which only the holder of the buffer's lock makes. Readers take it
    once and stay with it. Files that it names may go meanwhile, and are told by :class:`SegmentGoneError`: then the
    state of now is read.
    """

    def __init__(self, state: State, learners: Learners, index: Index, segments: Segments, options: Options) -> None:
        self.state = state
        self.learners = learners
        self.index = index
        self.segments = segments
        self.options = options
        self.fields = KnownFields(self.bodies, lambda: [columns.shown for columns in self.state.held])
        self.dropped = False
        """Whether the buffer was deleted."""
        self.leaving: frozenset[int] = frozenset()
        """Exemplars that are being erased: nothing of them is stored anew."""
        self.readers = Readers()
        self.leases: dict[str, PinningLease] = {}
        """Of :attr:`State.leased`, by name."""
        self.views: OrderedDict[str, Columns] = OrderedDict()
        """What snapshots show that were asked for lately, by name."""
        # No OrderedDict: listing its keys calls their hash, which is Python's, and meanwhile another thread may draw.
        self.selections: dict[tuple[int, int, selection.Filter], selection.Selection] = {}
        """By version and number of records, of which a snapshot has fewer once some are erased."""

    @property
    def disk_bytes(self) -> int:
        """All that is on disk for the buffer."""
        return self.state.disk_bytes + self.readers.held_bytes()

    # The state

    def check_alive(self) -> None:
        """Refuse what is asked of a buffer that was deleted. Raises ``NotFoundError`` (``unknown_buffer``)."""
        if self.dropped:
            raise NotFoundError(f"there is no buffer {self.state.config.name!r}", code="unknown_buffer")

    def become(self, state: State, move: Move | None = None) -> None:
        """Another state from here on, and where in it records lie elsewhere. For the holder of the buffer's lock."""
        before = self.state
        gone = [before.segments[id_] for id_ in before.segments.keys() - state.segments.keys()]
        with self.readers.leaving(gone):
            self.state = state
        for name in list(self.views):
            if state.marked(name) != before.marked(name):
                self.views.pop(name, None)
            elif move is not None:
                self.views[name] = moved(self.views[name], move)
        if state.leased.keys() != self.leases.keys():
            self.leases = {name: self.leases[name] for name in state.leased}
        # Those of versions that nobody can ask for any more.
        versions = {state.version, *(mark.version for mark in state.marks)}
        for key in list(self.selections):
            if key[0] not in versions:
                self.selections.pop(key, None)

    def lease(self, mark: Snapshot) -> PinningLease:
        """Keep what a snapshot shows that is not in the index. For the holder of the buffer's lock."""
        made = self.leases[mark.name] = PinningLease(mark)
        self.state = replace(self.state, leased={**self.state.leased, mark.name: mark})
        return made

    def let_go(self, name: str) -> None:
        """A lease for which nothing was kept is over. For the holder of the buffer's lock."""
        leased = {other: mark for other, mark in self.state.leased.items() if other != name}
        self.become(replace(self.state, leased=leased))

    # Reading

    def read_bodies(self, taken: Rows, into: memoryview | None = None) -> tuple[memoryview, NDArray[np.int64]]:
        """Bodies of rows end to end, in their order, and where each begins.

        Args:
            into: where to put them, of just that size; default memory of their own.

        Raises:
            SegmentGoneError: a segment was rewritten or removed since the rows were current.
            StorageError: a record is damaged.
        """
        ids, places, starts = places_of(taken)
        target = memoryview(bytearray(int(taken["length"].sum(dtype=np.int64)))) if into is None else into
        places.sort()
        stems = self.readers.begin(lambda: self._stems(ids))
        try:
            for first in range(0, len(stems), _HELD_AT_A_TIME):
                part = places[bisect_left(places, (first,)) : bisect_left(places, (first + _HELD_AT_A_TIME,))]
                with self.segments.hold(stems[first : first + _HELD_AT_A_TIME], first) as held:
                    held.read(part, target)
        finally:
            self.readers.done(stems)
        return target, starts

    def bodies(self, taken: Rows) -> list[memoryview]:
        """The same, each by itself."""
        view, starts = self.read_bodies(taken)
        ends = (starts + taken["length"]).tolist()
        return [view[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]

    def bodies_here(self, taken: Rows) -> list[memoryview]:
        """The same for the holder of the buffer's lock: nothing moves meanwhile. Raises ``StorageError``: a record is
        damaged, or a segment is missing."""
        try:
            return self.bodies(taken)
        except SegmentGoneError as error:
            raise StorageError(f"segment {error} is missing from the store") from error

    def shown_ids(self, taken: Rows) -> NDArray[np.uint64]:
        """The ids by which records are known, ``(N,)``, of rows as they are stored."""
        return shown_ids(self.state.columns.revised, taken["exemplar_id"])

    def hold(self, ids: Sequence[int], *, wait: bool = True, places: Iterable[Place] = ()) -> HeldLease | None:
        """A lease of segments; None where they are more than can be held at once.

        Args:
            wait: for files to be opened.
            places: what will be read.

        Raises:
            BlockingIOError: without ``wait``, not all of them are open.
            SegmentGoneError: a segment was rewritten or removed since the rows were current.
            StorageError: a record is known to be damaged.
        """
        return self._leased(ids, HeldLease, wait=wait, places=places)

    def lend(self, ids: Sequence[int], *, wait: bool, places: Iterable[Place]) -> LentLease | None:
        """As :meth:`hold`, for another process to read by descriptors of its own."""
        return self._leased(ids, LentLease, wait=wait, places=places)

    def _leased(self, ids: Sequence[int], kind: type[LeaseT], *, wait: bool, places: Iterable[Place]) -> LeaseT | None:
        if len(ids) > self.segments.room_to_hold():
            return None
        stems = self.readers.begin(lambda: self._stems(ids))
        try:
            held = self.segments.hold(stems, wait=wait)
            try:
                held.expect_sound(places)
            except BaseException:
                held.close()
                raise
        except BaseException:
            self.readers.done(stems)
            raise
        return self.readers.lease(stems, held, kind)

    def read_prefixes(self, taken: Rows, *, tokens: bool = False) -> Iterator[bytes]:
        """The keep mask and token mask of rows, unchecked. Raises as :meth:`read_bodies`.

        Of records of several pictures, whole bodies: they come as they are asked for, one in memory at a time.

        Args:
            tokens: with the ids of the kept tokens behind them, and what else lies where those of dropped ones would.
        """
        needed = prefix_bytes(taken)
        if tokens:
            needed = np.minimum(needed + most_id_bytes(taken), taken["length"])
        out: list[bytes] = [b""] * len(taken)
        columns = (taken["offset"].tolist(), needed.tolist(), taken["length"].tolist(), taken["crc32"].tolist())
        stems = self.readers.begin(lambda: self._stems(taken["segment"].tolist()))
        try:
            for at, (stem, *place) in enumerate(zip(stems, *columns, strict=True)):
                (out[at],) = self.segments.read_prefixes(stem, [(place[0], place[1], place[2], place[3])])
        finally:
            self.readers.done(stems)
        for at, flags in enumerate(taken["flags"].tolist()):
            if flags & FLAG_PARTS:
                (body,) = self.bodies(taken[at : at + 1])
                yield bytes(body)
            else:
                yield out[at]

    def _stems(self, ids: Iterable[int]) -> list[str]:
        # Of the present state, whatever state the rows are of: ids are never given twice.
        segments = self.state.segments
        try:
            return [segments[id_].stem for id_ in ids]
        except KeyError as error:
            raise SegmentGoneError(str(error)) from None

    def learner_ids(self, taken: Rows) -> list[str]:
        """Whose the records are."""
        ids = self.learners.ids
        return [ids[code] for code in taken["learner"].tolist()]

    # Views and selections

    def remember(self, name: str, view: Columns) -> None:
        """A snapshot's records were asked for. For the holder of the buffer's lock."""
        self.views[name] = view
        self.views.move_to_end(name)
        if len(self.views) > _VIEWS_KEPT:
            self.views.popitem(last=False)

    def select(self, columns: Columns, where: selection.Filter) -> selection.Selection:
        """The records of ``columns`` that match, remembered for a while."""
        key = (columns.version, columns.num_records, where)
        found = self.selections.get(key)
        if found is None:
            found = selection.select(columns, where, self.learners, self.fields.of(columns, where))
            self.selections[key] = found
            for old in list(self.selections)[:-_SELECTIONS_KEPT]:
                # Another thread may have been faster.
                self.selections.pop(old, None)
        return found

    def is_selected(self, columns: Columns, request: SampleRequest) -> bool:
        """Whether drawing needs no pass over all records, as one was made for an earlier request."""
        if request.where == selection.EVERYTHING and request.strategy == "uniform" and not request.repair_text:
            return True
        found = self.selections.get((columns.version, columns.num_records, request.where))
        if found is None or (request.repair_text and not found.is_ready("class_balanced")):
            return False
        return found.is_ready(request.strategy)


def places_of(taken: Rows) -> tuple[list[int], list[Place], NDArray[np.int64]]:
    """The segments of rows, and for each row which of them, its place there, and where it goes, end to end."""
    lengths = taken["length"].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    # A draw of one record would wait for numpy's unique twenty times as long; one of hundreds, as long.
    numbers: dict[int, int] = {}
    which = [numbers.setdefault(segment, len(numbers)) for segment in taken["segment"].tolist()]
    columns = (taken["offset"], lengths, taken["crc32"], starts)
    places = list(zip(which, *(column.tolist() for column in columns), strict=True))
    return list(numbers), places, starts
