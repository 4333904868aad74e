"""Drawing batches: by their bytes, by their ids, or as places in files that another process reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from operator import attrgetter
from typing import Final, Protocol, TypeVar

import numpy as np

from memory_format import ConflictError, ExemplarMemoryError, FormatError, checksum
from memory_format.api.answers import DrawnIds
from memory_format.api.terms import part_of
from memory_format.body import swap_text
from memory_format.header import HEADER_BYTES
from memory_format.wire import frame_batch
from memory_service.store.chosen import Chosen, Expected, Prepare
from memory_service.store.contents import Contents
from memory_service.store.drawn import Drawn
from memory_service.store.lent import LentBatch, lend
from memory_service.store.pure import sampler
from memory_service.store.pure.columns import Columns, Rows, headers_of_rows
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments.readers import LeaseEndedError
from memory_service.store.steady import Steady
from memory_service.store.tally import Tally

T_co = TypeVar("T_co", covariant=True)

_MOST_AT_HAND: Final = 512
"""Records of a batch that is drawn without waiting: under a millisecond's work."""

_FOR_STREAM: Final[Prepare] = attrgetter("frame", "places")
_FOR_IDS: Final[Prepare] = attrgetter("ids")
_FOR_LENDING: Final[Prepare] = attrgetter("lent")


class _Give(Protocol[T_co]):
    def __call__(self, chosen: Chosen, *, wait: bool) -> T_co: ...


class Draws(Steady):
    """Batches of one buffer."""

    def __init__(self, contents: Contents, alone: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(contents, alone)
        self.tally = Tally()

    def sample(self, request: SampleRequest) -> tuple[memoryview, int]:
        """A whole batch as an Arrow stream, and the version it was drawn from. Raises as :meth:`draw`, and
        ``StorageError`` where a record is damaged."""
        while True:
            with suppress(LeaseEndedError), self.draw(request) as drawn:
                while drawn.next_piece():
                    pass
                return drawn.stream, drawn.version

    def draw(self, request: SampleRequest, *, wait: bool = True, expected: Expected | None = None) -> Drawn:
        """A batch in drawing order, to be sent while it is read.

        Args:
            wait: for the disk, for locks and for more than a millisecond or so of work.
            expected: without ``wait``, where draws are laid out that are likely to come: see :meth:`lay_ahead`.

        Raises:
            NotFoundError: ``no_matching_exemplars``, ``unknown_snapshot``.
            ConflictError: ``stale_version``: the buffer is at another version than the one asked for.
            FormatError: ``invalid_query`` where more are asked for than there are; ``batch_too_large`` where the
                answer would be.
            StorageError: a record is known to be damaged. Damage that is not known yet shows in the pieces.
            BlockingIOError: without ``wait``, it takes one of those; nothing was drawn.
        """
        if request.repair_text > 0 and not wait:
            raise BlockingIOError("texts of other records are read")
        return self._at_hand_or_steadily(request, _FOR_STREAM, self._streamed, wait=wait, expected=expected)

    def draw_ids(self, request: SampleRequest, *, wait: bool = True, expected: Expected | None = None) -> DrawnIds:
        """The batch of :meth:`draw` by its ids, for which nothing is read.

        Args:
            wait: for locks and for more than a millisecond or so of work.
            expected: as in :meth:`draw`.

        Raises:
            NotFoundError, ConflictError, FormatError, BlockingIOError: as :meth:`draw`.
        """
        return self._at_hand_or_steadily(request, _FOR_IDS, _ids_of, wait=wait, expected=expected)

    def lend(self, request: SampleRequest, *, wait: bool = True, expected: Expected | None = None) -> LentBatch:
        """The batch of :meth:`draw`, to be read by a process of this machine.

        Raises:
            NotLentError: it can only be drawn.
            NotFoundError, ConflictError, FormatError, StorageError, BlockingIOError: as :meth:`draw`.
        """
        give = partial(lend, self.contents)
        return self._at_hand_or_steadily(request, _FOR_LENDING, give, wait=wait, expected=expected)

    def lay_ahead(self, after: SampleRequest, expected: Expected) -> None:
        """Lay the draw out that follows on one that was made, where it is likely to be asked for and can be without
        waiting: for when nobody waits. It keeps no file. Once the records are others, it is drawn from those."""

        def lay_out(columns: Columns) -> None:
            expected.lay_out(self.contents.state.config.name, after, columns, partial(self._chosen_at_hand, columns))

        # What is wrong with it is said when it is asked for.
        with suppress(ExemplarMemoryError, BlockingIOError):
            self._at_hand(after.snapshot, lay_out)

    def fetch(self, exemplar_ids: Sequence[int], *, snapshot: str | None = None, wait: bool = True) -> Drawn:
        """Records by id, in that order, to be sent while they are read. Those that are not held are left out.

        Raises:
            NotFoundError: ``unknown_snapshot``.
            FormatError: ``batch_too_large``.
            StorageError, BlockingIOError: as :meth:`draw`.
        """

        def read(columns: Columns, *, wait: bool = True) -> Drawn:
            positions = columns.positions_of(np.array(exemplar_ids, dtype=np.uint64))
            taken = columns.take(positions[positions >= 0])
            self._expect_room(taken)
            return self._streamed(self._unswapped(columns, taken), wait=wait)

        if wait:
            return self.steadily(snapshot, read)
        if len(exemplar_ids) > _MOST_AT_HAND:
            raise BlockingIOError("more than a millisecond's work")
        return self._at_hand(snapshot, partial(read, wait=False))

    def _at_hand_or_steadily(
        self, request: SampleRequest, prepare: Prepare, give: _Give[T_co], *, wait: bool, expected: Expected | None
    ) -> T_co:
        def give_now(columns: Columns) -> T_co:
            chosen = None
            if expected is not None:
                chosen = expected.take(self.contents.state.config.name, request, columns, prepare)
            return give(chosen or self._chosen_at_hand(columns, request), wait=False)

        if wait:
            given = self.steadily(request.snapshot, lambda columns: give(self._chosen(columns, request), wait=True))
        else:
            given = self._at_hand(request.snapshot, give_now)
        mine = part_of(request.batch_size, request.part, request.parts)
        self.tally.add(samples=1, drawn=mine.stop - mine.start)
        return given

    def _chosen_at_hand(self, columns: Columns, request: SampleRequest) -> Chosen:
        """As :meth:`_chosen`. Raises ``BlockingIOError``: it takes more than a millisecond or so."""
        if request.batch_size > _MOST_AT_HAND or not self.contents.is_selected(columns, request):
            raise BlockingIOError("the batch is not at hand")
        return self._chosen(columns, request)

    def _chosen(self, columns: Columns, request: SampleRequest) -> Chosen:
        """Which records are drawn."""
        expect_version(request.version, columns.version)
        contents = self.contents
        selection = contents.select(columns, request.where)
        drawn = sampler.draw(selection, request, draw_key=contents.state.config.draw_key, version=columns.version)
        taken = columns.take(drawn.positions)
        self._expect_room(taken)
        swapped = drawn.swapped
        donors = columns.take(drawn.text_from[swapped]) if len(swapped) else taken[:0]
        return Chosen(columns.version, contents.state.config.created_at, contents.learners, taken, swapped, donors)

    def _unswapped(self, columns: Columns, taken: Rows) -> Chosen:
        contents, nothing = self.contents, np.zeros(0, np.int64)
        return Chosen(columns.version, contents.state.config.created_at, contents.learners, taken, nothing, taken[:0])

    def _expect_room(self, taken: Rows) -> None:
        num_bytes = int(taken["length"].sum(dtype=np.int64)) + HEADER_BYTES * len(taken)
        limit = self._options.max_response_bytes
        if num_bytes > limit:
            raise FormatError(
                f"the batch would be {num_bytes} bytes, at most {limit} are given at once; ask for fewer",
                code="batch_too_large",
                requested_bytes=num_bytes,
                limit=limit,
            )

    def _streamed(self, chosen: Chosen, *, wait: bool) -> Drawn:
        """A batch that is read while it is sent."""
        if len(chosen.swapped):
            return Drawn(chosen.version, self._encoded_swapped(chosen))
        ids, places = chosen.places
        lease = self.contents.hold(ids, wait=wait, places=places)
        if lease is None:
            if not wait:
                raise BlockingIOError("the batch is from more segments than can be held")
            stream, start = chosen.frame.stream()
            self.contents.read_bodies(chosen.taken, stream[start:])
            return Drawn(chosen.version, stream)
        try:
            stream, start = chosen.frame.stream()
        except BaseException:
            lease.close()
            raise
        return Drawn(chosen.version, stream, start, lease, places)

    def _encoded_swapped(self, chosen: Chosen) -> memoryview:
        """An Arrow stream, some of whose records have another one's text."""
        bodies: list[bytes | memoryview] = [*self.contents.bodies(chosen.taken)]
        headers, donor_headers = headers_of_rows(chosen.taken.copy()), headers_of_rows(chosen.donors)
        texts = zip(donor_headers, self.contents.bodies(chosen.donors), strict=True)
        for place, (donor_header, text) in zip(chosen.swapped.tolist(), texts, strict=True):
            headers[place], changed = swap_text(headers[place], bodies[place], donor_header, text)
            bodies[place] = changed
            headers["crc32"][place] = checksum.crc32(changed)
        frame = frame_batch(headers, chosen.learner_ids(chosen.taken), [len(part) for part in bodies])
        stream, start = frame.stream()
        stream[start : start + frame.body_bytes] = b"".join(bodies)
        return stream


def _ids_of(chosen: Chosen, *, wait: bool) -> DrawnIds:
    return chosen.ids


def expect_version(wanted: int | None, found: int) -> None:
    """Refuse what is asked of another version than there is. Raises ``ConflictError`` (``stale_version``)."""
    if wanted is not None and wanted != found:
        raise ConflictError(
            f"the buffer is at version {found}, {wanted} was asked for",
            code="stale_version",
            version=found,
            expected_version=wanted,
        )
