"""A buffer as a table with a row a record, for what reads Arrow or Parquet: made and sent a piece at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memory_format import FormatError, MissingLibraryError
from memory_format.api.forms import ExportForm
from memory_format.record import split_row
from memory_format.wire import SCHEMA, rows_of
from memory_service.store.png import to_png
from memory_service.store.pure.columns import Rows, headers_of_rows
from memory_service.store.transfer.export import Shown, pieces

DESCRIPTION_KEY: Final = b"exemplar_memory_buffer"
"""Of the schema's metadata: the JSON that a Zarr store has in its attribute of that name."""
PNG: Final = pa.field("png", pa.binary())
"""Null where a picture cannot be decoded here, or is larger than any that is shown."""

_ENCODED: Final = [PNG.name, "body"]
"""What is compressed already, and never twice the same."""


def table_file(shown: Shown, form: ExportForm, *, png: bool) -> Generator[bytes, None, None]:
    """The pieces of a table's file. Memory: one piece of rows, and what the form says of each at its end: 24 bytes in
    an Arrow file, some 1,500 in Parquet.

    Args:
        png: with a column of pictures, dropped patches grey.
    """
    metadata = {**SCHEMA.metadata, DESCRIPTION_KEY: shown.description.model_dump_json()}
    schema = (SCHEMA.append(PNG) if png else SCHEMA).with_metadata(metadata)
    sink = _Sink()
    with _writer(sink, schema, form) as writer:
        for rows in _rows(shown, png):
            writer.write_batch(rows.replace_schema_metadata(schema.metadata))
            if piece := sink.taken():
                yield piece
    yield sink.taken()


def _writer(sink: _Sink, schema: pa.Schema, form: ExportForm) -> Any:
    if form == "arrow-stream":
        return pa.ipc.new_stream(sink, schema)
    if form == "arrow-file":
        return pa.ipc.new_file(sink, schema)
    from pyarrow import parquet

    small = [name for name in schema.names if name not in _ENCODED]
    # Statistics of a body under 4 KiB would be the body itself, up to five times.
    return parquet.ParquetWriter(
        sink,
        schema,
        compression={name: "zstd" if name in small else "none" for name in schema.names},
        use_dictionary=small,
        write_statistics=small,
    )


def _rows(shown: Shown, png: bool) -> Iterator[pa.RecordBatch]:
    lengths = shown.lengths
    for first, last in pieces(lengths + _pixel_bytes(shown) if png else lengths):
        part = shown.view.take(np.arange(first, last))
        learners = [shown.learner_ids[code] for code in part["learner"].tolist()]
        bodies = shown.read(np.arange(first, last))
        rows = rows_of(headers_of_rows(part), learners, lengths[first:last], pa.py_buffer(bodies))
        yield rows.append_column(PNG, _pictures(part, learners, bodies)) if png else rows


def _pixel_bytes(shown: Shown) -> NDArray[np.int64]:
    """``(N,)``: a PNG has hardly more."""
    h, w, patch_px = (shown.view[name].astype(np.int64) for name in ("grid_h", "grid_w", "patch_px"))
    return 3 * h * w * patch_px**2


def _pictures(part: Rows, learners: list[str], bodies: memoryview) -> pa.Array:
    found: list[bytes | None] = []
    at = 0
    for row, learner, length in zip(headers_of_rows(part).tolist(), learners, part["length"].tolist(), strict=True):
        try:
            found.append(to_png(split_row(row, bodies[at : at + length], learner)))
        except (FormatError, MissingLibraryError):
            found.append(None)
        at += length
    return pa.array(found, PNG.type)


class _Sink:
    """A file that only its writer's pieces are kept of, until they are taken."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes | pa.Buffer] = []
        self._end = 0

    def taken(self) -> bytes:
        """What was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def write(self, piece: bytes | pa.Buffer) -> int:
        self._pieces.append(piece)
        self._end += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._end

    def flush(self) -> None: ...

    def close(self) -> None: ...
