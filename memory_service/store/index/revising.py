"""What is written to the index of replaced arrays, in SQL."""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_service.store.index import tables
from memory_service.store.index.intents import Intents
from memory_service.store.index.reading import unanswered
from memory_service.store.pure.revised import REVISED_DTYPE, Revised, among


class Revising(Intents):
    """The part of :class:`~memory_service.store.index.writing.Writing` that says which record is which exemplar."""

    def insert_revisions(
        self, buffer_id: int, segment_id: int, stored_ids: NDArray[np.uint64], revised: Revised
    ) -> None:
        """Note which of the records that now lie in a segment replace others."""
        _, said = among(revised, np.asarray(stored_ids))
        same, names = {"buffer_id": buffer_id, "segment_id": segment_id}, REVISED_DTYPE.names or ()
        self.insert(tables.revisions, [{**same, **dict(zip(names, row, strict=True))} for row in said.tolist()])

    def right_revisions(self, buffer_id: int, segment_id: int, said: Revised) -> None:
        """Note what records of a segment say of themselves, where something else is noted, or nothing."""
        names = ["stored_id", "exemplar_id", "revision"]
        said = said[~np.isin(said[names], self.revised(buffer_id, segment_id)[names])]
        r = tables.revisions.c
        this = tables.revisions.delete().where(r.buffer_id == buffer_id, r.segment_id == segment_id)
        for stored_id in said["stored_id"].tolist():
            self.connection.execute(this.where(r.stored_id == stored_id))
        self.insert_revisions(buffer_id, segment_id, said["stored_id"], said)

    def insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        """Rows, if there are any."""
        if rows:
            self.connection.execute(unanswered(table.insert()), rows)
