"""Batches of records as Arrow IPC streams, in both directions.

The schema is fixed (:data:`SCHEMA`), so any language with Arrow reads a batch, and whatever is not exactly
such a batch is refused before its columns are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pyarrow as pa

from memory_format.errors import FormatError
from memory_format.record import Record, check_record

MEDIA_TYPE: Final = "application/vnd.apache.arrow.stream"
WIRE_VERSION: Final = "1"

SCHEMA: Final = pa.schema(
    [
        pa.field("exemplar_id", pa.uint64(), nullable=False),
        pa.field("class_id", pa.uint32(), nullable=False),
        pa.field("phase", pa.uint16(), nullable=False),
        pa.field("learner_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("rank", pa.uint32(), nullable=False),
        pa.field("grid_h", pa.uint8(), nullable=False),
        pa.field("grid_w", pa.uint8(), nullable=False),
        pa.field("patch_px", pa.uint8(), nullable=False),
        pa.field("keep_mask", pa.binary(), nullable=False),
        pa.field("text_length", pa.uint16(), nullable=False),
        pa.field("token_mask", pa.binary(), nullable=False),
        pa.field("token_ids", pa.binary(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("layout", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("extras", pa.binary(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ],
    metadata={"exemplar_memory_wire": WIRE_VERSION},
)
"""``keep_mask``, ``token_mask``: bitmasks. ``token_ids``: uint16 little-endian. ``crc32``: of the record's
body, computed by whoever encoded it, so that damage on the way is seen at the other end."""

_MAX_BATCHES = 1024


def encode_batch(records: Iterable[Record]) -> bytes:
    """Records -> one Arrow IPC stream with one batch."""
    rows = list(records)
    columns: dict[str, list[Any]] = {
        "exemplar_id": [r.exemplar_id for r in rows],
        "class_id": [r.class_id for r in rows],
        "phase": [r.phase for r in rows],
        "learner_id": [r.learner_id for r in rows],
        "score": [r.score for r in rows],
        "rank": [r.rank for r in rows],
        "grid_h": [r.grid[0] for r in rows],
        "grid_w": [r.grid[1] for r in rows],
        "patch_px": [r.patch_px for r in rows],
        "keep_mask": [r.keep_mask_bytes for r in rows],
        "text_length": [r.text_length for r in rows],
        "token_mask": [r.token_mask_bytes for r in rows],
        "token_ids": [r.token_ids_bytes for r in rows],
        "codec": [r.codec_id for r in rows],
        "layout": [r.layout for r in rows],
        "payload": [r.payload for r in rows],
        "extras": [r.extras for r in rows],
        "crc32": [r.crc32 for r in rows],
    }
    arrays = [pa.array(columns[field.name], type=field.type) for field in SCHEMA]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
    return bytes(sink.getvalue())


def decode_batch(data: bytes, *, max_records: int = 100_000, check: bool = True) -> list[Record]:
    """Arrow IPC stream -> records.

    Memory: the stream is read in place and compressed buffers are refused, so are buffers that overlap, so
    decoding allocates at most about four times ``len(data)`` (the copies of the columns into records) plus
    2 KiB a record.

    Args:
        max_records: the most that is taken.
        check: verify every record (:func:`~memory_format.record.check_record`) and its CRC. A client may
            leave it out for what a trusted service sends.

    Raises:
        FormatError: ``invalid_batch``, ``batch_too_large``, or the record's own code with its ``index``.
    """
    batches = _read_stream(data)
    total = sum(batch.num_rows for batch in batches)
    if total > max_records:
        raise FormatError(f"{total} records in one batch; at most {max_records} are taken", code="batch_too_large")
    records = [record for batch in batches for record in _to_records(batch)]
    if check:
        _check_all(records, [crc for batch in batches for crc in batch.column("crc32").to_pylist()])
    return records


def _read_stream(data: bytes) -> list[pa.RecordBatch]:
    try:
        _refuse_compression(data)
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            if not reader.schema.equals(SCHEMA):
                raise FormatError(
                    "the Arrow schema is not that of a record batch (docs/format.md); expected columns "
                    + ", ".join(f"{field.name}: {field.type}" for field in SCHEMA),
                    code="invalid_batch",
                )
            if (reader.schema.metadata or {}).get(b"exemplar_memory_wire") != WIRE_VERSION.encode():
                raise FormatError(
                    f"the schema's metadata must say exemplar_memory_wire={WIRE_VERSION}",
                    code="invalid_batch",
                )
            batches: list[pa.RecordBatch] = []
            for batch in reader:
                if len(batches) == _MAX_BATCHES:
                    raise FormatError(f"more than {_MAX_BATCHES} Arrow batches in one stream", code="batch_too_large")
                batch.validate(full=True)
                if any(column.null_count for column in batch.columns):
                    raise FormatError("no column may hold nulls", code="invalid_batch")
                batches.append(batch)
            if sum(batch.nbytes for batch in batches) > len(data):
                # Overlapping buffers are legal Arrow, and turn one byte into as many as there are columns.
                raise FormatError("the batch's buffers overlap", code="invalid_batch")
            return batches
    except (pa.ArrowException, OSError, ValueError, OverflowError, struct.error, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(f"the body is not an Arrow IPC stream of records: {reason}", code="invalid_batch") from error


def _to_records(batch: pa.RecordBatch) -> list[Record]:
    columns = {name: batch.column(name).to_pylist() for name in SCHEMA.names}
    fields = {
        "exemplar_id": columns["exemplar_id"],
        "class_id": columns["class_id"],
        "phase": columns["phase"],
        "learner_id": columns["learner_id"],
        "score": columns["score"],
        "rank": columns["rank"],
        "grid": list(zip(columns["grid_h"], columns["grid_w"], strict=True)),
        "patch_px": columns["patch_px"],
        "keep_mask_bytes": columns["keep_mask"],
        "codec_id": columns["codec"],
        "layout": columns["layout"],
        "payload": columns["payload"],
        "text_length": columns["text_length"],
        "token_mask_bytes": columns["token_mask"],
        "token_ids_bytes": columns["token_ids"],
        "extras": columns["extras"],
    }
    return [Record(**dict(zip(fields, row, strict=True))) for row in zip(*fields.values(), strict=True)]


def _check_all(records: Sequence[Record], crcs: Sequence[int]) -> None:
    for index, (record, crc32) in enumerate(zip(records, crcs, strict=True)):
        try:
            check_record(record)
        except FormatError as error:
            raise FormatError(
                f"record {index}: {error.message}", code=error.code, index=index, **error.details
            ) from None
        if record.crc32 != crc32:
            raise FormatError(
                f"record {index}: its CRC-32 is {record.crc32:#010x}, the batch says {crc32:#010x}: "
                "damaged on the way?",
                code="invalid_record",
                index=index,
            )


# Arrow IPC message headers are flatbuffers (format/Message.fbs). Only three facts are read: the version, the
# header's type, and whether a record batch carries a BodyCompression table.
_RECORD_BATCH_TYPE = 3
_DICTIONARY_BATCH_TYPE = 2
_METADATA_V5 = 4
_CONTINUATION = b"\xff\xff\xff\xff"


def _refuse_compression(data: bytes) -> None:
    """Refuse streams with compressed or dictionary buffers.

    A compressed buffer states its own decompressed size, which pyarrow allocates before it looks at the data:
    a few bytes could ask for terabytes. pyarrow has no option to cap or forbid it.
    """
    offset = 0
    while offset + 8 <= len(data):
        if data[offset : offset + 4] != _CONTINUATION:
            raise FormatError("the body is not an Arrow IPC stream", code="invalid_batch")
        (metadata_length,) = struct.unpack_from("<i", data, offset + 4)
        if metadata_length == 0:
            return
        start = offset + 8
        if metadata_length < 0 or start + metadata_length > len(data):
            raise FormatError("the Arrow IPC stream is cut short", code="invalid_batch")
        metadata = memoryview(data)[start : start + metadata_length]
        message = struct.unpack_from("<I", metadata, 0)[0]
        if _scalar(metadata, message, 0, "<h") != _METADATA_V5:
            # Older versions may announce compression in a second place, and union layouts differ.
            raise FormatError("only Arrow's metadata version 5 (Arrow 1.0 and later) is taken", code="invalid_batch")
        header_type = _scalar(metadata, message, 1, "<B")
        if header_type == _DICTIONARY_BATCH_TYPE:
            raise FormatError("dictionary batches are not taken", code="invalid_batch")
        if header_type == _RECORD_BATCH_TYPE:
            field = _field(metadata, message, 2)
            batch = field + struct.unpack_from("<I", metadata, field)[0]
            if _field(metadata, batch, 3):
                raise FormatError(
                    "compressed Arrow buffers are not taken; payloads are compressed already",
                    code="invalid_batch",
                )
        body_length = _scalar(metadata, message, 3, "<q")
        if body_length < 0 or start + metadata_length + body_length > len(data):
            raise FormatError("the Arrow IPC stream is cut short", code="invalid_batch")
        offset = start + metadata_length + body_length
    if offset == 0:
        raise FormatError(f"a body of {len(data)} bytes is no Arrow IPC stream", code="invalid_batch")


def _field(table: memoryview, position: int, slot: int) -> int:
    """Position of a flatbuffer table's field, 0 where it is absent."""
    if position < 0 or position + 4 > len(table):
        raise FormatError("an Arrow message header points outside itself", code="invalid_batch")
    vtable = position - struct.unpack_from("<i", table, position)[0]
    if vtable < 0 or vtable + 4 > len(table):
        raise FormatError("an Arrow message header points outside itself", code="invalid_batch")
    size = struct.unpack_from("<H", table, vtable)[0]
    entry = 4 + 2 * slot
    if entry + 2 > size:
        return 0
    relative = int(struct.unpack_from("<H", table, vtable + entry)[0])
    return position + relative if relative else 0


def _scalar(table: memoryview, position: int, slot: int, form: str) -> int:
    field = _field(table, position, slot)
    return int(struct.unpack_from(form, table, field)[0]) if field else 0
