"""Batches of records as Arrow IPC streams, in both directions.

The schema is fixed (:data:`SCHEMA`), so any language with Arrow reads a batch, and whatever is not such a batch is
refused before its columns are looked at. A record's body travels as it lies in a segment:
between a stream and a file it is copied, never taken apart.

Columns are made of buffers, and read from them: for ``pyarrow.array`` and ``to_numpy`` Arrow imports pandas where that
is installed, 43 MiB that stay (findings/pyarrow_imports_pandas.sh).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from memory_format import checksum
from memory_format.arrow_guard import messages
from memory_format.body import check_row
from memory_format.codecs import codec_by_number
from memory_format.codecs.retired import RETIRED
from memory_format.errors import FormatError, MissingLibraryError, at_index
from memory_format.header import FLAG_REVISED, HEADER_DTYPE
from memory_format.record import Record, headers_of, split_row
from memory_format.wire_schema import SCHEMA, check_schema

_NAMES: Final = list(HEADER_DTYPE.names or ())
_HEADER_COLUMNS: Final = [name for name in SCHEMA.names if name in _NAMES]
_TYPES: Final = {field.name: field.type for field in SCHEMA}
_CRC, _CODEC, _FLAGS = (_NAMES.index(name) for name in ("crc32", "codec", "flags"))
_RETIRED: Final = frozenset(codec.number for codec in RETIRED)
_MAX_BATCHES = 1024
_MAX_PLACED = 2**20
_MAX_BODIES_BYTES = 2**31 - 1  # Arrow's binary columns count in int32
_END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Of a stream (Arrow's columnar format, "IPC Streaming Format")."""
_BEGIN: Final = SCHEMA.serialize().to_pybytes()


@dataclass(frozen=True)
class Batch:
    """N records as they lie in a stream."""

    headers: NDArray[np.void]
    """``(N,)`` of ``HEADER_DTYPE``; ``offset`` and ``learner``, which only segments use, are 0."""
    learner_ids: list[str]
    bodies: list[memoryview]
    """Slices of the stream's own bytes, which they keep alive."""

    def __len__(self) -> int:
        return len(self.headers)


def read_batch(data: bytes, *, max_records: int = 100_000) -> Batch:
    """Arrow IPC stream -> records that nothing is known of yet: see :func:`check_batch`.

    Memory: the stream is read in place, compressed buffers are refused, so are buffers that overlap. What is
    allocated is at most 512 bytes a record, and where learner ids are longer than they may be, those
    characters, of up to 4 bytes each.

    Raises:
        FormatError: ``invalid_batch`` or ``batch_too_large``.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise FormatError(f"a batch is bytes, got {type(data).__name__}", code="invalid_batch")
    batches = list(_batches(data))
    total = sum(batch.num_rows for batch in batches)
    if total > max_records:
        raise FormatError(f"{total} records in one batch; at most {max_records} are taken", code="batch_too_large")
    headers = np.zeros(total, dtype=HEADER_DTYPE)
    learner_ids: list[str] = []
    bodies: list[memoryview] = []
    view = memoryview(data)
    for batch in batches:
        _fill(headers[len(bodies) : len(bodies) + batch.num_rows], batch)
        learner_ids += batch.column("learner_id").to_pylist()
        bodies += [view[begin:end] for begin, end in pairwise(_ends(data, batch.column("body")).tolist())]
    return Batch(headers, learner_ids, bodies)


@dataclass(frozen=True)
class Placed:
    """N records of one Arrow batch in a file, their bodies end to end."""

    headers: NDArray[np.void]
    """As :attr:`Batch.headers`."""
    learner_ids: pa.Array
    """N texts."""
    ends: NDArray[np.int64]
    """``(N + 1,)``: where the first body begins in the file, and where each ends."""


def read_places(data: memoryview) -> tuple[dict[bytes, bytes], Iterator[Placed]]:
    """The metadata of a stream's schema, and of its batches where the bodies lie, one after another: for streams that
    are longer than memory.

    Raises:
        FormatError: as :func:`read_batch`, for the batches once it is their turn.
    """
    try:
        metadata = pa.ipc.read_schema(next(messages(data))).metadata or {}
    except _DAMAGED as error:
        raise _damaged(error) from error
    return metadata, map(partial(_placed, data), _batches(data, most=_MAX_PLACED))


def _placed(data: memoryview, batch: pa.RecordBatch) -> Placed:
    headers = np.zeros(batch.num_rows, dtype=HEADER_DTYPE)
    _fill(headers, batch)
    return Placed(headers, batch.column("learner_id"), _ends(data, batch.column("body")))


def _fill(headers: NDArray[np.void], batch: pa.RecordBatch) -> None:
    for name in _HEADER_COLUMNS:
        headers[name] = numbers_of(batch.column(name), HEADER_DTYPE[name])


def check_batch(batch: Batch, *, new: bool = False, crcs: bool = True) -> None:
    """Check every record (:func:`~memory_format.record.check_record`) and its CRC.

    Args:
        new: refuse codecs of earlier versions, whose payloads nothing here can check, and revisions, which a service
            makes.
        crcs: look at the CRCs, which whoever read the bodies from a file has done.

    Raises:
        FormatError: the record's own code, with its ``index``.
        MissingLibraryError: ``codec_unavailable``, with ``index``: a record is in a codec of earlier versions.
    """
    known_learners: set[str] = set()
    rows = batch.headers.tolist()
    for index, (row, learner_id, body) in enumerate(zip(rows, batch.learner_ids, batch.bodies, strict=True)):
        # First, though it is judged last: it brings the body into the processor's cache.
        found = checksum.crc32(body) if crcs else row[_CRC]
        try:
            check_row(row, learner_id, body, known_learners)
            if found != row[_CRC]:
                raise FormatError(f"its CRC-32 is {found:#010x}, the batch says {row[_CRC]:#010x}: damaged on the way?")
            if new and row[_FLAGS] & FLAG_REVISED:
                raise FormatError(
                    "it says how often its arrays were replaced, which a buffer says: push it without that"
                )
            if new and row[_CODEC] in _RETIRED:
                raise codec_by_number(row[_CODEC]).unavailable()
        except (FormatError, MissingLibraryError) as error:
            raise at_index(error, index) from None


@dataclass(frozen=True)
class Frame:
    """An Arrow IPC stream of one batch, without the bodies that lie end to end in its middle."""

    before: bytes
    behind: bytes
    body_bytes: int

    def stream(self) -> tuple[memoryview, int]:
        """The whole stream, as a flat view of bytes, and the offset in it where the bodies begin. Until they are
        written there, what lies there is arbitrary."""
        start, end = len(self.before), len(self.before) + self.body_bytes
        stream = memoryview(pa.allocate_buffer(end + len(self.behind))).cast("B")
        stream[:start], stream[end:] = self.before, self.behind
        return stream, start


def frame_batch(headers: NDArray[np.void], learner_ids: Sequence[str], lengths: ArrayLike) -> Frame:
    """The frame of a batch.

    Args:
        headers: ``(N,)`` of ``HEADER_DTYPE``; ``offset`` and ``learner`` do not matter.
        learner_ids: N learner ids.
        lengths: ``(N,)`` integers, bytes of each body.

    Raises:
        FormatError: ``batch_too_large``: 2 GiB of bodies do not fit one Arrow batch.
        ValueError: the arguments contradict each other.
    """
    count = len(headers)
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes) == len(learner_ids) == count or (sizes < 0).any():
        raise ValueError(f"{count} headers, {len(learner_ids)} learner ids, {len(sizes)} lengths")
    total = int(sizes.sum())
    if total > _MAX_BODIES_BYTES:
        raise FormatError(f"bodies of {total} bytes in one batch; send fewer at once", code="batch_too_large")
    # Takes no memory, as nobody touches it: only its length goes into the stream.
    unwritten = pa.allocate_buffer(total)
    pieces = _writer.pieces_of(rows_of(headers, learner_ids, sizes, unwritten))
    # Empty bodies are not written at all.
    bodies = next((at for at, piece in enumerate(pieces) if _is(piece, unwritten)), len(pieces))
    return Frame(b"".join([_BEGIN, *pieces[:bodies]]), b"".join([*pieces[bodies + 1 :], _END]), total)


def rows_of(
    headers: NDArray[np.void], learner_ids: Sequence[str], lengths: NDArray[np.int64], bodies: pa.Buffer
) -> pa.RecordBatch:
    """Records as rows of :data:`SCHEMA`.

    Args:
        headers, learner_ids, lengths: as :func:`frame_batch`.
        bodies: end to end, less than 2 GiB; not copied.
    """
    count = len(headers)
    texts = "".join(learner_ids)
    sizes = np.fromiter(map(len, learner_ids if texts.isascii() else map(str.encode, learner_ids)), np.int64, count)
    columns = {
        "learner_id": joined(pa.string(), sizes, pa.py_buffer(texts.encode())),
        "body": joined(pa.binary(), lengths, bodies),
    }
    for name in _HEADER_COLUMNS:
        values = pa.py_buffer(np.ascontiguousarray(headers[name]))
        columns[name] = pa.Array.from_buffers(_TYPES[name], count, [None, values])
    return pa.RecordBatch.from_arrays([columns[name] for name in _TYPES], schema=SCHEMA)


def numbers_of(column: pa.Array, kind: np.dtype[Any]) -> NDArray[Any]:
    """``(N,)``: a column of numbers of ``kind``, none of which is null; not copied."""
    if not len(column):
        return np.zeros(0, kind)
    return np.frombuffer(column.buffers()[1], kind, len(column), offset=column.offset * kind.itemsize)


def joined(
    kind: pa.DataType, lengths: NDArray[np.int64], values: pa.Buffer, there: NDArray[np.bool_] | None = None
) -> pa.Array:
    """N values that lie end to end, less than 2 GiB, as an array of ``kind``: strings or bytes.

    Args:
        lengths: ``(N,)``, bytes of each.
        there: ``(N,)``, false where one is null; None: none is.
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    known = None if there is None else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(kind, len(lengths), [known, pa.py_buffer(offsets), values])


class _Writer(threading.local):
    """What a stream consists of between its schema and its end, one of them a thread: to begin a stream takes as long
    as to write a batch of one record."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes | pa.Buffer] = []
        self._stream = pa.ipc.new_stream(pa.PythonFile(self, mode="w"), SCHEMA)
        # The first batch brings the schema with it.
        empty = pa.py_buffer(b"")
        columns = [
            pa.Array.from_buffers(kind, 0, [None] + [empty] * (kind.num_buffers - 1)) for kind in _TYPES.values()
        ]
        self.pieces_of(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))

    def pieces_of(self, batch: pa.RecordBatch) -> list[bytes | pa.Buffer]:
        """A batch, as it is given to the file: buffers are not copied."""
        pieces: list[bytes | pa.Buffer] = []
        self._pieces = pieces
        self._stream.write_batch(batch)
        self._pieces = []
        return pieces

    def write(self, piece: bytes | pa.Buffer) -> int:
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None: ...

    def close(self) -> None: ...


_writer: Final = _Writer()


def _is(piece: bytes | pa.Buffer, buffer: pa.Buffer) -> bool:
    return isinstance(piece, pa.Buffer) and piece.address == buffer.address and piece.size == buffer.size


def record_list(records: Any) -> list[Record]:
    """Records that somebody gives, as a list.

    Raises:
        FormatError: it is no list of records, or something in it is none.
    """
    try:
        found = list(records)
    except TypeError:
        found = [records]
    for index, record in enumerate(found):
        if not isinstance(record, Record):
            raise FormatError(f"a list of records of make_record is needed, got {record!r:.100}", index=index)
    return found


def encode_batch(records: Iterable[Record]) -> bytes:
    """Records -> one Arrow IPC stream with one batch.

    Raises:
        FormatError: a record's fields do not fit a header or contradict each other, with its ``index``; or
            ``batch_too_large``, as :func:`frame_batch`.
    """
    rows = record_list(records)
    bodies = [record.body for record in rows]
    headers = headers_of(rows, map(checksum.crc32, bodies))
    lengths = [len(body) for body in bodies]
    stream, place = frame_batch(headers, [record.learner_id for record in rows], lengths).stream()
    for body in bodies:
        stream[place : place + len(body)] = body
        place += len(body)
    return bytes(stream)


def decode_batch(data: bytes) -> list[Record]:
    """Arrow IPC stream -> records: :func:`read_batch`, :func:`check_batch` and :func:`split_batch`.

    Memory: at most four times ``len(data)`` plus 2 KiB a record in all.
    """
    batch = read_batch(data)
    check_batch(batch)
    return split_batch(batch)


def split_batch(batch: Batch) -> list[Record]:
    """The records of a batch, in memory of their own.

    Raises:
        FormatError: a body is too short for what its header says, or its flags are of a newer version; with the
            record's ``index``.
    """
    records: list[Record] = []
    for row, learner_id, body in zip(batch.headers.tolist(), batch.learner_ids, batch.bodies, strict=True):
        try:
            records.append(split_row(row, body, learner_id))
        except FormatError as error:
            raise at_index(error, len(records)) from None
    return records


def _ends(data: bytes | memoryview, column: pa.Array) -> NDArray[np.int64]:
    """Of a column that was read in place: where its first value begins in the bytes that it was read from, and where
    each ends."""
    count = len(column)
    if count == 0:
        return np.zeros(1, np.int64)
    _, offsets_buffer, values = column.buffers()
    kind = np.dtype(np.int64 if column.type == pa.large_binary() else np.int32)
    offsets = np.frombuffer(offsets_buffer, dtype=kind, count=count + 1, offset=kind.itemsize * column.offset)
    start = values.address - pa.py_buffer(data).address if values else 0
    return offsets + np.int64(start)


_DAMAGED: Final = (pa.ArrowException, OSError, ValueError, OverflowError, struct.error, StopIteration)


def _damaged(error: Exception) -> FormatError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return FormatError(f"the body is not an Arrow IPC stream of records: {reason}", code="invalid_batch")


def _batches(data: bytes | memoryview, most: int = _MAX_BATCHES) -> Iterator[pa.RecordBatch]:
    """The batches of a stream, read in place."""
    num_bytes = 0
    try:
        stream = messages(data)
        schema = pa.ipc.read_schema(next(stream))
        check_schema(schema)
        for number, message in enumerate(stream):
            if number == most:
                raise FormatError(f"more than {most} Arrow batches in one stream", code="batch_too_large")
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate(full=True)
            if any(batch.column(name).null_count for name in SCHEMA.names):
                raise FormatError("no column may hold nulls", code="invalid_batch")
            num_bytes += batch.nbytes
            if num_bytes > len(data):
                # Overlapping buffers are legal Arrow, and turn one byte into as many as there are columns.
                raise FormatError("the batch's buffers overlap", code="invalid_batch")
            yield batch
    except _DAMAGED as error:
        raise _damaged(error) from error
