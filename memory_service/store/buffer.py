"""One buffer: a named set of records under one byte budget.

Changes happen one at a time, under the buffer's lock. Reads take no lock: they use whatever columns are
current, which never change under them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import sqlalchemy as sa

from memory_format import FormatError, NotFoundError, Record, StorageError, decode_batch
from memory_service.store import index, sampler
from memory_service.store import query as queries
from memory_service.store.columns import Columns, charge_of, rows_of_records
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.model import BufferConfig, Options, PushAnswer
from memory_service.store.segments import SegmentFiles, SegmentGoneError

T = TypeVar("T")


class Buffer:
    """One open buffer; :class:`~memory_service.store.store.Store` makes them."""

    def __init__(
        self,
        config: BufferConfig,
        next_exemplar_id: int,
        index_: index.Index,
        segments: SegmentFiles,
        options: Options,
    ) -> None:
        self.config = config
        self._index = index_
        self._options = options
        self._lock = threading.Lock()
        self._tally_lock = threading.Lock()
        self._dropped = False
        self.pushes = 0
        """Pushes answered since the store was opened, replayed ones left out."""
        self.samples = 0
        """Batches drawn since the store was opened."""
        self.contents = Contents(config.id, segments)
        with index_.read() as connection:
            self.contents.load(connection)
        self._commits = Commits(config, next_exemplar_id, index_, segments, self.contents, options)

    def push(self, body: bytes, *, idempotency_key: str | None = None) -> PushAnswer:
        """Take in an Arrow batch: all of it is judged, and kept or not, in one step.

        Raises:
            FormatError: the batch or one of its records is malformed.
            BudgetError: see :func:`memory_service.store.eviction.plan`.
            ConflictError: ``idempotency_key_reused``.
            StorageError: it could not be stored. In every case nothing has changed.
        """
        digest = "" if idempotency_key is None else hashlib.blake2b(body, digest_size=16).hexdigest()
        known = self._known_answer(idempotency_key, digest)
        if known is not None:
            return known
        # Outside the lock: the expensive part of a push needs nothing of the buffer.
        records = decode_batch(body, max_records=self._options.max_batch_records)
        incoming, bodies = rows_of_records(records, self.contents.learners)
        with self._lock:
            self._check_alive()
            # Again: a push with the same key may have been under way.
            known = self._known_answer(idempotency_key, digest)
            if known is not None:
                return known
            answer = self._commits.push(incoming, bodies, idempotency_key, digest)
            self._commits.compact()
        with self._tally_lock:
            self.pushes += 1
        return answer

    def drop(self) -> None:
        """Delete the buffer and all that it holds. What is being read elsewhere is still read to its end."""
        with self._lock:
            self._check_alive()
            self._commits.drop()
            self._dropped = True

    def get(self, exemplar_id: int) -> Record:
        """One record.

        Raises:
            NotFoundError: ``unknown_exemplar``.
            StorageError: it is damaged.
        """

        def read(columns: Columns) -> Record:
            position = columns.position_of(exemplar_id)
            if position is None:
                raise NotFoundError(
                    f"buffer {self.config.name!r} holds no exemplar {exemplar_id}; was it evicted?",
                    code="unknown_exemplar",
                )
            return self.contents.read_records(columns, np.array([position]))[0]

        return self._steadily(read)

    def query(self, query: queries.Query) -> tuple[queries.Page, int]:
        """A page of index rows, and the version of the buffer that they are of.

        Raises:
            FormatError: ``invalid_cursor``.
        """
        return self._page(query, None)

    def query_records(self, query: queries.Query) -> tuple[list[Record], str | None, int]:
        """A page of whole records, the next cursor, and the version. Raises as :meth:`query` and
        :meth:`get`."""

        def read(columns: Columns) -> tuple[list[Record], str | None, int]:
            page, version = self._page(query, self._options.max_response_bytes)
            positions = [columns.position_of(row.exemplar_id) for row in page.rows]
            if None in positions:
                raise SegmentGoneError("of a record newer than the columns")
            records = self.contents.read_records(columns, np.array(positions, dtype=np.int64))
            return records, page.next_cursor, version

        return self._steadily(read)

    def sample(self, request: sampler.SampleRequest) -> tuple[list[Record], int]:
        """A batch in drawing order, and the version it was drawn from.

        Raises:
            NotFoundError: ``no_matching_exemplars``.
            FormatError: ``invalid_query`` where more are asked for than there are, or the buffer is at
                another version than the one asked for; ``batch_too_large`` where the answer would be.
            StorageError: a record is damaged.
        """
        batch = self._steadily(lambda columns: (self._sample_from(columns, request), columns.version))
        with self._tally_lock:
            self.samples += 1
        return batch

    def _sample_from(self, columns: Columns, request: sampler.SampleRequest) -> list[Record]:
        if request.version is not None and request.version != columns.version:
            raise FormatError(
                f"the buffer is at version {columns.version}, {request.version} was asked for",
                code="invalid_query",
                version=columns.version,
                expected_version=request.version,
            )
        selection = self.contents.select(columns, request.where)
        drawn = sampler.draw(selection, request, buffer=self.config.name, version=columns.version)
        num_bytes = int(charge_of(columns["length"][drawn.positions]).sum())
        limit = self._options.max_response_bytes
        if num_bytes > limit:
            raise FormatError(
                f"the batch would be {num_bytes} bytes, at most {limit} are given at once; ask for fewer",
                code="batch_too_large",
                requested_bytes=num_bytes,
                limit=limit,
            )
        records = self.contents.read_records(columns, drawn.positions)
        swapped = np.flatnonzero(drawn.text_from != drawn.positions)
        donors = self.contents.read_records(columns, drawn.text_from[swapped])
        for place, donor in zip(swapped.tolist(), donors, strict=True):
            records[place] = replace(
                records[place],
                text_length=donor.text_length,
                token_mask_bytes=donor.token_mask_bytes,
                token_ids_bytes=donor.token_ids_bytes,
            )
        return records

    def _known_answer(self, key: str | None, digest: str) -> PushAnswer | None:
        return None if key is None else self._commits.known_answer(key, digest)

    def _page(self, query: queries.Query, max_bytes: int | None) -> tuple[queries.Page, int]:
        b = index.buffers.c
        with self._index.read() as connection:
            statement = sa.select(b.version).where(b.id == self.config.id)
            version = connection.execute(statement).scalar_one_or_none()
            if version is None:
                raise self._unknown()
            return queries.run(connection, self.config.id, query, max_bytes=max_bytes), version

    def _steadily(self, read: Callable[[Columns], T]) -> T:
        """Read without a lock; once more under it where a segment was rewritten or removed meanwhile."""
        self._check_alive()
        try:
            return read(self.contents.columns)
        except SegmentGoneError:
            pass
        with self._lock:
            self._check_alive()
            try:
                return read(self.contents.columns)
            except SegmentGoneError as error:
                raise StorageError(f"segment {error} is missing from the store") from error

    def _check_alive(self) -> None:
        if self._dropped:
            raise self._unknown()

    def _unknown(self) -> NotFoundError:
        return NotFoundError(f"there is no buffer {self.config.name!r}", code="unknown_buffer")
