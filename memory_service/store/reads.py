"""Reading a buffer: records, pages of them, and batches that are drawn. Nothing here changes anything.

Reads take no lock: they use whatever state is current, which never changes under them.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_format import ConflictError, FormatError, NotFoundError, Record, StorageError, checksum
from memory_format.api.answers import DrawnIds, ExemplarInfo, NamedClass
from memory_format.api.contents import FieldCounts
from memory_format.api.terms import part_of
from memory_format.body import swap_text
from memory_format.header import HEADER_BYTES, fingerprints
from memory_format.record import split_row
from memory_format.wire import frame_batch
from memory_service.store.contents import Contents
from memory_service.store.drawn import Drawn
from memory_service.store.glimpses import Glimpse, glimpse_of, info_of
from memory_service.store.lent import LentBatch, lend
from memory_service.store.pure import query as queries
from memory_service.store.pure import sampler
from memory_service.store.pure.columns import Columns, Rows, charge_of, headers_of_rows
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.selection import Filter
from memory_service.store.pure.stats import count_by
from memory_service.store.segments.base import SegmentGoneError
from memory_service.store.segments.readers import LeaseEndedError
from memory_service.store.tally import Tally

T = TypeVar("T")

_MOST_AT_HAND: Final = 512
"""Records of a batch that is drawn without waiting: under a millisecond's work."""


class Reads:
    """What can be read of one buffer.

    Wherever a method takes ``snapshot``, it reads what the buffer held when that was taken; None: what it holds
    now. It raises ``NotFoundError`` (``unknown_snapshot``) where there is none of that name.

    Args:
        alone: gives the buffer's lock, with nothing of an earlier failure left.
    """

    def __init__(self, contents: Contents, alone: Callable[[], AbstractContextManager[None]]) -> None:
        self.contents = contents
        self.alone = alone
        self.tally = Tally()
        self._index = contents.index
        self._options = contents.options

    def get(self, exemplar_id: int, *, snapshot: str | None = None) -> Record:
        """One record.

        Raises:
            NotFoundError: ``unknown_exemplar``.
            StorageError: it is damaged.
        """

        def read(columns: Columns) -> Record:
            taken = self._row(columns, exemplar_id)
            body, _ = self.contents.read_bodies(taken)
            return split_row(headers_of_rows(taken)[0].item(), body, *self.contents.learner_ids(taken))

        return self.steadily(snapshot, read)

    def query(self, query: queries.Query, *, snapshot: str | None = None) -> tuple[list[ExemplarInfo], str | None, int]:
        """A page of what is known of records, the next cursor, and the version of the buffer that they are of.

        Raises:
            FormatError: ``invalid_cursor``.
            StorageError: a segment cannot be read.
        """

        return self.steadily(snapshot, lambda columns: self._listed(columns, query, info_of))

    def browse(self, query: queries.Query, *, snapshot: str | None = None) -> tuple[list[Glimpse], str | None, int]:
        """The same, with the texts. Raises as :meth:`query`."""
        return self.steadily(snapshot, lambda columns: self._listed(columns, query, glimpse_of, tokens=True))

    def count_by(self, field: str, where: Filter, *, limit: int, snapshot: str | None = None) -> FieldCounts:
        """Records that match by a field of the user's, the ``limit`` most frequent values.

        Raises:
            StorageError: a record is damaged.
        """

        def read(columns: Columns) -> FieldCounts:
            selection = self.contents.select(columns, where)
            taken = columns.take(selection.at(np.arange(selection.num)))
            return count_by(field, taken, self.contents.fields.of_all(taken), columns.version, limit)

        return self.steadily(snapshot, read)

    def snapshots(self) -> list[Snapshot]:
        """All of them, oldest first."""
        self.contents.check_alive()
        return sorted(self.contents.state.snapshots.values(), key=lambda snapshot: snapshot.number)

    def page_of_snapshots(self, limit: int, cursor: str | None = None) -> tuple[list[Snapshot], str | None]:
        """Of :meth:`snapshots`, as :func:`memory_service.store.pure.query.page_of_snapshots`."""
        return queries.page_of_snapshots(self.snapshots(), limit, cursor)

    def fingerprint(self, exemplar_id: int, *, snapshot: str | None = None) -> int:
        """What tells a record from others of its id (:func:`memory_format.header.fingerprints`), for which nothing is
        read. Raises ``NotFoundError``: ``unknown_exemplar``."""

        def read(columns: Columns) -> int:
            (found,) = fingerprints(headers_of_rows(self._row(columns, exemplar_id)))
            return found

        return self.steadily(snapshot, read)

    def query_encoded(self, query: queries.Query, *, snapshot: str | None = None) -> tuple[memoryview, str | None, int]:
        """A page of whole records as an Arrow stream, the next cursor, and the version.

        Raises:
            FormatError: ``invalid_cursor``.
            StorageError: a record is damaged.
        """

        def read(columns: Columns) -> tuple[memoryview, str | None, int]:
            positions, next_cursor = self._page(columns, query, self._options.max_response_bytes)
            return self._encoded(columns.take(positions)), next_cursor, columns.version

        return self.steadily(snapshot, read)

    def sample(self, request: sampler.SampleRequest) -> tuple[memoryview, int]:
        """A whole batch as an Arrow stream, and the version it was drawn from. Raises as :meth:`draw`, and
        ``StorageError`` where a record is damaged."""
        while True:
            with suppress(LeaseEndedError), self.draw(request) as drawn:
                while drawn.next_piece():
                    pass
                return drawn.stream, drawn.version

    def draw(self, request: sampler.SampleRequest, *, wait: bool = True) -> Drawn:
        """A batch in drawing order, to be sent while it is read.

        Args:
            wait: for the disk, for locks and for more than a millisecond or so of work.

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
        return self._at_hand_or_steadily(request, self._draw_from, wait=wait)

    def draw_ids(self, request: sampler.SampleRequest, *, wait: bool = True) -> DrawnIds:
        """The batch of :meth:`draw` by its ids, for which nothing is read.

        Args:
            wait: for locks and for more than a millisecond or so of work.

        Raises:
            NotFoundError, ConflictError, FormatError, BlockingIOError: as :meth:`draw`.
        """
        return self._at_hand_or_steadily(request, self._ids_from, wait=wait)

    def lend(self, request: sampler.SampleRequest, *, wait: bool = True) -> LentBatch:
        """The batch of :meth:`draw`, to be read by a process of this machine.

        Raises:
            NotLentError: it can only be drawn.
            NotFoundError, ConflictError, FormatError, StorageError, BlockingIOError: as :meth:`draw`.
        """
        return self._at_hand_or_steadily(request, self._lend_from, wait=wait)

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
            return self._to_send(columns.version, taken, wait=wait)

        if wait:
            return self.steadily(snapshot, read)
        if len(exemplar_ids) > _MOST_AT_HAND:
            raise BlockingIOError("more than a millisecond's work")
        return self._at_hand(snapshot, read)

    def _row(self, columns: Columns, exemplar_id: int) -> Rows:
        """The row of one record, ``(1,)``. Raises ``NotFoundError``."""
        # As uint64: a plain int makes numpy compare through float64, which confuses ids over 2**53.
        positions = columns.positions_of(np.array([exemplar_id], dtype=np.uint64))
        if positions[0] < 0:
            raise no_exemplar(self.contents.state.config.name, exemplar_id)
        return columns.take(positions)

    def _listed(
        self, columns: Columns, query: queries.Query, of: Callable[..., T], *, tokens: bool = False
    ) -> tuple[list[T], str | None, int]:
        positions, next_cursor = self._page(columns, query, None)
        taken = columns.take(positions)
        prefixes = self.contents.read_prefixes(taken, tokens=tokens)
        charges = charge_of(taken["length"]).tolist()
        numbers = (charges, columns.revisions(taken["exemplar_id"]).tolist())
        found = zip(headers_of_rows(taken), self.contents.learner_ids(taken), prefixes, *numbers, strict=True)
        return [of(*parts) for parts in found], next_cursor, columns.version

    def _page(
        self, columns: Columns, query: queries.Query, max_bytes: int | None
    ) -> tuple[NDArray[np.int64], str | None]:
        fields = self.contents.fields.of(columns, query.where)
        return queries.run(columns, query, self.contents.learners, fields, max_bytes=max_bytes)

    def _encoded(self, taken: Rows) -> memoryview:
        """Rows as an Arrow stream, into which their bodies are read where they lie."""
        stream, start = frame_batch(headers_of_rows(taken), self.contents.learner_ids(taken), taken["length"])
        self.contents.read_bodies(taken, stream[start:])
        return stream

    def _at_hand_or_steadily(self, request: sampler.SampleRequest, read: Callable[..., T], *, wait: bool) -> T:
        def read_now(columns: Columns, *, wait: bool) -> T:
            if request.batch_size > _MOST_AT_HAND or not self.contents.is_selected(columns, request):
                raise BlockingIOError("the batch is not at hand")
            return read(columns, request, wait=wait)

        if wait:
            drawn = self.steadily(request.snapshot, lambda columns: read(columns, request))
        else:
            drawn = self._at_hand(request.snapshot, read_now)
        mine = part_of(request.batch_size, request.part, request.parts)
        self.tally.add(samples=1, drawn=mine.stop - mine.start)
        return drawn

    def _at_hand(self, snapshot: str | None, read: Callable[..., T]) -> T:
        self.contents.check_alive()
        columns = self._known_columns(snapshot)
        if columns is None or not columns.is_shown_ready:
            raise BlockingIOError("the records are not at hand")
        try:
            return read(columns.shown, wait=False)
        except SegmentGoneError as error:
            raise BlockingIOError(f"segment {error} has moved") from error

    def _draw_from(self, columns: Columns, request: sampler.SampleRequest, *, wait: bool = True) -> Drawn:
        drawn, taken = self._chosen(columns, request)
        swapped = drawn.swapped
        if len(swapped):
            donors = columns.take(drawn.text_from[swapped])
            return Drawn(columns.version, self._encoded_swapped(taken, swapped, donors))
        return self._to_send(columns.version, taken, wait=wait)

    def _ids_from(self, columns: Columns, request: sampler.SampleRequest, *, wait: bool = True) -> DrawnIds:
        drawn, taken = self._chosen(columns, request)
        donors = columns.take(drawn.text_from) if len(drawn.swapped) else taken[:0]
        return DrawnIds(
            version=columns.version,
            created_at=self.contents.state.config.created_at,
            exemplar_ids=tuple(taken["exemplar_id"].tolist()),
            fingerprints=tuple(fingerprints(taken)),
            scores=tuple(taken["score"].tolist()),
            ranks=tuple(taken["rank"].tolist()),
            text_from=tuple(donors["exemplar_id"].tolist()),
            text_fingerprints=tuple(fingerprints(donors)),
        )

    def _lend_from(self, columns: Columns, request: sampler.SampleRequest, *, wait: bool = True) -> LentBatch:
        drawn, taken = self._chosen(columns, request)
        swapped = drawn.swapped
        donors = columns.take(drawn.text_from[swapped]) if len(swapped) else None
        return lend(self.contents, taken, swapped, donors, columns.version, wait=wait)

    def _chosen(self, columns: Columns, request: sampler.SampleRequest) -> tuple[sampler.Draw, Rows]:
        """Which records are drawn, and their rows."""
        expect_version(request.version, columns.version)
        contents = self.contents
        selection = contents.select(columns, request.where)
        drawn = sampler.draw(selection, request, draw_key=contents.state.config.draw_key, version=columns.version)
        taken = columns.take(drawn.positions)
        self._expect_room(taken)
        return drawn, taken

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

    def _to_send(self, version: int, taken: Rows, *, wait: bool) -> Drawn:
        """Rows as a batch that is read while it is sent."""
        contents = self.contents
        held = contents.hold_bodies(taken, wait=wait)
        if held is None:
            if not wait:
                raise BlockingIOError("the batch is from more segments than can be held")
            return Drawn(version, self._encoded(taken))
        try:
            stream, start = frame_batch(headers_of_rows(taken), contents.learner_ids(taken), taken["length"])
        except BaseException:
            held[0].close()
            raise
        return Drawn(version, stream, start, *held)

    def _encoded_swapped(self, taken: Rows, swapped: NDArray[np.int64], donors: Rows) -> memoryview:
        """Rows as an Arrow stream, some of them with another record's text."""
        bodies: list[bytes | memoryview] = [*self.contents.bodies(taken)]
        headers, donor_headers = headers_of_rows(taken), headers_of_rows(donors)
        texts = zip(donor_headers, self.contents.bodies(donors), strict=True)
        for place, (donor_header, text) in zip(swapped.tolist(), texts, strict=True):
            headers[place], changed = swap_text(headers[place], bodies[place], donor_header, text)
            bodies[place] = changed
            headers["crc32"][place] = checksum.crc32(changed)
        stream, start = frame_batch(headers, self.contents.learner_ids(taken), [len(part) for part in bodies])
        stream[start : start + sum(map(len, bodies))] = b"".join(bodies)
        return stream

    def page_of_classes(self, limit: int, cursor: str | None = None) -> tuple[list[NamedClass], str | None]:
        """The first named classes by id, or those after a cursor, and the cursor of the next page, None at the end.
        Raises ``FormatError`` (``invalid_cursor``)."""
        if cursor is not None and not re.fullmatch("[0-9]{1,10}", cursor):
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        self.contents.check_alive()
        names, after = self.contents.state.names, -1 if cursor is None else int(cursor)
        found = heapq.nsmallest(limit + 1, (class_id for class_id in names if class_id > after))
        page = [NamedClass(class_id, names[class_id]) for class_id in found[:limit]]
        return page, str(found[limit - 1]) if len(found) > limit else None

    # Which records

    def steadily(self, snapshot: str | None, read: Callable[[Columns], T]) -> T:
        """Read the buffer as it is; once more where a segment was rewritten or removed before it was opened.

        Raises:
            NotFoundError: ``unknown_buffer``, ``unknown_snapshot``.
            StorageError: a segment is missing, and whatever reading raises.
        """
        self.contents.check_alive()
        columns = self._known_columns(snapshot)
        if columns is not None:
            with suppress(SegmentGoneError):
                return read(columns.shown)
        with self.alone():
            # Nothing moves now.
            try:
                return read(self.view(snapshot).shown)
            except SegmentGoneError as error:
                raise StorageError(f"segment {error} is missing from the store") from error

    def _known_columns(self, snapshot: str | None) -> Columns | None:
        """The columns to read, as they are stored, where no lock is needed for them."""
        return self.contents.state.columns if snapshot is None else self.contents.views.get(snapshot)

    def view(self, snapshot: str | None) -> Columns:
        """The columns as they are stored. For the holder of the buffer's lock. Raises as :meth:`steadily`."""
        state = self.contents.state
        if snapshot is None:
            return state.columns
        mark, view = state.snapshot(snapshot), self.contents.views.get(snapshot)
        if view is None:
            with self._index.reading() as reading:
                view = state.shown_by(mark, reading.scores_at(state.config.id, mark.version))
        self.contents.remember(snapshot, view)
        return view


def expect_version(wanted: int | None, found: int) -> None:
    """Refuse what is asked of another version than there is. Raises ``ConflictError`` (``stale_version``)."""
    if wanted is not None and wanted != found:
        raise ConflictError(
            f"the buffer is at version {found}, {wanted} was asked for",
            code="stale_version",
            version=found,
            expected_version=wanted,
        )


def no_exemplar(name: str, exemplar_id: int) -> NotFoundError:
    """That a buffer does not hold a record."""
    return NotFoundError(f"buffer {name!r} holds no exemplar {exemplar_id}; was it evicted?", code="unknown_exemplar")
