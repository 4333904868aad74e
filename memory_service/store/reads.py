"""Reading a buffer: records and pages of them. Nothing here changes anything."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError, NotFoundError, Record
from memory_format.api.answers import ExemplarInfo, NamedClass
from memory_format.api.contents import FieldCounts
from memory_format.header import fingerprints
from memory_format.record import split_row
from memory_format.wire import frame_batch
from memory_service.store.draws import Draws
from memory_service.store.glimpses import Glimpse, glimpse_of, info_of
from memory_service.store.pure import query as queries
from memory_service.store.pure.columns import Columns, Rows, charge_of, headers_of_rows
from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.selection import Filter
from memory_service.store.pure.stats import count_by

T = TypeVar("T")


class Reads(Draws):
    """What can be read of one buffer."""

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

    def _row(self, columns: Columns, exemplar_id: int) -> Rows:
        """The row of one record, ``(1,)``. Raises ``NotFoundError``."""
        # As uint64: a plain int makes numpy 2.4.6 compare through float64, which confuses ids over 2**53 and copies all
        # of them (findings/numpy_searchsorted_plain_int.sh).
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
        stream, start = frame_batch(headers_of_rows(taken), self.contents.learner_ids(taken), taken["length"]).stream()
        self.contents.read_bodies(taken, stream[start:])
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


def no_exemplar(name: str, exemplar_id: int) -> NotFoundError:
    """That a buffer does not hold a record."""
    return NotFoundError(f"buffer {name!r} holds no exemplar {exemplar_id}; was it evicted?", code="unknown_exemplar")
