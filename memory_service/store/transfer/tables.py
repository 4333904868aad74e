"""A buffer as a table with a row a record, for what reads Arrow or Parquet: made and sent a piece at a time; and read
again."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memory_format import FormatError, MissingLibraryError
from memory_format.api.forms import FORMS, ExportForm
from memory_format.record import split_row
from memory_format.tables import WITHOUT_DESCRIPTION
from memory_format.wire import joined, numbers_of, read_places, rows_of
from memory_format.wire_schema import DESCRIPTION_KEY, PNG, SCHEMA
from memory_service.store.png import to_png
from memory_service.store.pure.columns import Rows, headers_of_rows
from memory_service.store.segments.layout import MAX_LEARNERS, READ_DTYPE, SegmentContents, bounded_json
from memory_service.store.transfer.export import Shown, pieces

_FOOTER: Final = struct.Struct("<i6s")
"""The end of an Arrow file: how long what stands before it is."""
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
    """Null where one cannot be decoded here, or is larger than any that is shown."""
    found: list[bytes | None] = []
    at = 0
    for row, learner, length in zip(headers_of_rows(part).tolist(), learners, part["length"].tolist(), strict=True):
        try:
            found.append(to_png(split_row(row, bodies[at : at + length], learner)))
        except (FormatError, MissingLibraryError):
            found.append(None)
        at += length
    pictures = [png or b"" for png in found]
    there = np.array([png is not None for png in found], np.bool_)
    return joined(PNG.type, np.array(list(map(len, pictures)), np.int64), pa.py_buffer(b"".join(pictures)), there)


def is_table(file: BinaryIO) -> bool:
    """Whether a file is none of Zarr. Raises ``ValueError``: it is Parquet, which is not taken here."""
    file.seek(0)
    beginning = file.read(8)
    if beginning.startswith(FORMS["parquet"].begins):
        raise ValueError(
            "Parquet is not taken, as a few bytes of it may stand for any number. MemoryClient.import_buffer and "
            "`memory-service import` make the Arrow stream of it that is"
        )
    return beginning.startswith((FORMS["arrow-stream"].begins, FORMS["arrow-file"].begins))


def read_table(file: BinaryIO) -> SegmentContents:
    """Read an exported Arrow stream or file, but for the bodies.

    Memory: in proportion to the other columns, which are as long in the file.

    Raises:
        FormatError, ValueError: it is none, or damaged; the message says how.
        OSError: it cannot be read.
    """
    data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    at, end = 0, len(data)
    if data[:8] == FORMS["arrow-file"].begins:
        # Such a file is a stream, with what helps to find its batches behind it.
        footer_bytes, magic = _FOOTER.unpack(data[-_FOOTER.size :]) if len(data) > 8 + _FOOTER.size else (0, b"")
        at, end = 8, len(data) - _FOOTER.size - footer_bytes
        if magic != FORMS["arrow-file"].ends or not at <= end <= len(data):
            raise ValueError("it is no whole Arrow file")
    if data[max(at, end - 8) : end] != FORMS["arrow-stream"].ends:
        # Arrow takes one that was cut between two batches for a whole one.
        raise ValueError("it is no whole Arrow stream: it does not say that it ends")
    metadata, batches = read_places(data[at:end])
    if DESCRIPTION_KEY not in metadata:
        raise ValueError(WITHOUT_DESCRIPTION)
    learners: dict[str, int] = {}
    headers: list[NDArray[np.void]] = [np.zeros(0, READ_DTYPE)]
    lengths: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for placed in batches:
        part = placed.headers.astype(READ_DTYPE)
        part["offset"] = placed.ends[:-1] + at
        part["learner"] = _codes(placed.learner_ids, learners)
        headers.append(part)
        lengths.append(np.diff(placed.ends))
    described = bounded_json(metadata[DESCRIPTION_KEY], DESCRIPTION_KEY.decode())
    attributes = {DESCRIPTION_KEY.decode(): described}
    return SegmentContents(np.concatenate(headers), list(learners), np.concatenate(lengths), attributes)


def _codes(learner_ids: pa.Array, learners: dict[str, int]) -> NDArray[np.uint16]:
    """Places of learner ids among those known, which become more. Raises ``ValueError``: they are too many."""
    encoded = learner_ids.dictionary_encode()
    codes = [learners.setdefault(name, len(learners)) for name in encoded.dictionary.to_pylist()]
    if len(learners) > MAX_LEARNERS:
        raise ValueError(f"it has more than {MAX_LEARNERS} learners")
    places: NDArray[np.uint16] = np.array(codes, np.uint16)[numbers_of(encoded.indices, np.dtype(np.int32))]
    return places


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
