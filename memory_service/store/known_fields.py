"""The fields of a buffer's records, read from their bodies when somebody first asks for them.

Nothing of them is in the index, and nothing is read of a record whose flags say that it has none: buffers without
fields pay nothing. What was read once is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from memory_format.body import extras_of
from memory_format.extras import decode_extras
from memory_format.header import FLAG_TYPED
from memory_service.store.pure.columns import Columns, Rows, headers_of_rows
from memory_service.store.pure.field_index import NO_FIELDS, FieldIndex
from memory_service.store.pure.selection import Filter

_PIECE: Final = 16 * 1024 * 1024
"""Bytes of bodies that are read at a time."""
_SPARE: Final = 1000


class KnownFields:
    """What is known so far.

    Args:
        read: rows -> their bodies. What it raises, methods raise.
        held: gives all records that the buffer has.
    """

    def __init__(self, read: Callable[[Rows], Sequence[memoryview]], held: Callable[[], Sequence[Columns]]) -> None:
        self._read = read
        self._held = held
        self._index = NO_FIELDS
        self._lock = threading.Lock()

    def of(self, records: Columns | Rows, where: Filter) -> FieldIndex:
        """What a filter needs of these records."""
        return self.of_all(records) if where.fields else NO_FIELDS

    def of_all(self, records: Columns | Rows) -> FieldIndex:
        """The fields of all of these records."""
        places = np.flatnonzero(records["flags"] & FLAG_TYPED)
        ids = records["exemplar_id"][places]
        with self._lock:
            lacking = places[self._index.lacking(ids)]
            ends = np.cumsum(records["length"][lacking].astype(np.int64)) // _PIECE
            # Of nothing, numpy makes one part.
            for part in np.split(lacking, np.flatnonzero(np.diff(ends)) + 1) if len(lacking) else ():
                rows = records.take(part)
                headers = headers_of_rows(rows)
                pairs = zip(headers, self._read(rows), strict=True)
                found = [decode_extras(extras_of(header, body)).fields for header, body in pairs]
                self._index = self._index.joined(rows["exemplar_id"], found)
            self._forget()
            return self._index

    def _forget(self) -> None:
        """Records that are gone, once they are most of what is known."""
        held = self._held()
        if len(self._index.ids) > 2 * sum(columns.num_records for columns in held) + _SPARE:
            self._index = self._index.kept(np.concatenate([columns["exemplar_id"] for columns in held]))
