"""Whole buffers on their way out, at the pace of whoever takes them."""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError, NotFoundError
from memory_format.api.forms import FORMS, ExportForm
from memory_service.store.commits import Commits
from memory_service.store.reads import Reads
from memory_service.store.segments.readers import LeaseEndedError, PinningLease, Rest
from memory_service.store.transfer.export import Export, Shown, describe, zarr_file
from memory_service.store.transfer.tables import table_file
from memory_service.store.turns import Turns

logger = logging.getLogger(__name__)


class Exports:
    """Exports of one buffer that are under way."""

    def __init__(self, reads: Reads, commits: Commits, turns: Turns) -> None:
        self._reads = reads
        self._contents = reads.contents
        self._commits = commits
        self._turns = turns

    def export(self, snapshot: str | None, form: ExportForm, *, png: bool) -> Export:
        """The buffer as one file, piece by piece.

        What is read stays readable until the last piece or ``close()``, whatever is evicted meanwhile.

        Args:
            png: a column of pictures, of a table.

        Raises:
            FormatError: ``invalid_query``: Zarr has no such column.
            NotFoundError: ``unknown_snapshot``.
            StorageError: a record is damaged; only when its piece is read.
        """
        if png and form == "zarr":
            tables = ", ".join(form.media_type for form in list(FORMS.values())[1:])
            raise FormatError(
                f"pictures are a column of a table, and Zarr is none; tables: {tables}", code="invalid_query"
            )
        # One step: a change in between may need the room, and end the lease before there is anything to read.
        with self._reads.alone():
            lease = self._lease(snapshot)
            try:
                state, view = self._contents.state, self._reads.view(lease.mark.name).shown
            except BaseException:
                self._contents.let_go(lease.mark.name)
                raise
        try:
            described = describe(state.config, view.version, lease.mark, state.classes, state.names, state.words)
            shown = Shown(view, self._contents.learners.ids, described, partial(self._read, lease))
            num_bytes, pieces = zarr_file(shown) if form == "zarr" else (None, table_file(shown, form, png=png))
            return Export(pieces, num_bytes, partial(self._end, lease), lease)
        except BaseException:
            self._end(lease)
            raise

    def keep_files(self) -> None:
        """The buffer is about to be deleted: hold the files that are read from, for nothing else will keep them."""
        for lease in self._contents.leases.values():
            view = self._reads.view(lease.mark.name).shown
            ids = np.unique(view["segment"])
            held = self._contents.hold(ids.tolist())
            if held is None:
                name = self._contents.state.config.name
                logger.warning("an export of buffer %s is cut short: it reads more files than can be held", name)
                lease.end()
            else:
                lease.rest = Rest(view, ids, held)

    def _lease(self, snapshot: str | None) -> PinningLease:
        state, name = self._contents.state, f"#{uuid.uuid4().hex}"
        if snapshot is None:
            return self._contents.lease(state.mark(name, time.time(), 0))
        return self._contents.lease(replace(state.snapshot(snapshot), name=name, number=0))

    def _read(self, lease: PinningLease, positions: NDArray[np.int64]) -> memoryview:
        """Bodies of records that a lease shows. Raises ``LeaseEndedError``: a change needed the room."""
        if lease.ended:
            raise LeaseEndedError
        lease.progress()
        if lease.rest is None:
            try:
                # The view of the lease, for compaction may have moved what it shows.
                name = lease.mark.name
                return self._reads.steadily(
                    name, lambda columns: self._contents.read_bodies(columns.take(positions))[0]
                )
            except NotFoundError:
                # The buffer was deleted meanwhile, or the lease has ended.
                if lease.rest is None:
                    raise LeaseEndedError from None
        return lease.rest.read(positions)

    def _end(self, lease: PinningLease) -> None:
        # Of a buffer that others have deleted nothing is kept.
        with closing(lease), suppress(NotFoundError), self._turns.ending():
            state, name = self._contents.state, lease.mark.name
            if self._contents.dropped or name not in state.leased:
                return
            if len(state.pinned.died) or state.counts.scores:
                self._commits.commit(state.change(dropped=[lease.mark]))
                self._commits.tidy(0)
            else:
                # Nothing was kept for it.
                self._contents.let_go(name)
