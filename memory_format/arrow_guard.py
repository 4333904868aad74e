"""What Arrow streams from strangers may not hold, looked for before pyarrow sees them.

Arrow IPC message headers are flatbuffers (format/Message.fbs). Only three facts are read: the version, the header's
type, and whether a record batch carries a BodyCompression table.
"""

from __future__ import annotations

import struct
from typing import Final

from memory_format.errors import FormatError

_RECORD_BATCH_TYPE: Final = 3
_DICTIONARY_BATCH_TYPE: Final = 2
_METADATA_V5: Final = 4
_CONTINUATION: Final = b"\xff\xff\xff\xff"


def check_messages(data: bytes) -> None:
    """Refuse streams with compressed or dictionary buffers, and bytes behind a stream's end.

    A compressed buffer states its own decompressed size, which pyarrow allocates before it looks at the data:
    a few bytes could ask for terabytes. pyarrow has no option to cap or forbid it. What follows the first stream, a
    second one, say, it drops without a word.

    Raises:
        FormatError: ``invalid_batch``.
        struct.error: the stream is damaged in its headers.
    """
    offset = 0
    while offset + 8 <= len(data):
        if data[offset : offset + 4] != _CONTINUATION:
            raise FormatError("the body is not an Arrow IPC stream", code="invalid_batch")
        (metadata_length,) = struct.unpack_from("<i", data, offset + 4)
        if metadata_length == 0:
            offset += 8
            break
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
    if offset != len(data):
        raise FormatError(
            f"{len(data) - offset} bytes follow the end of the Arrow IPC stream; one stream is taken, which may hold "
            "several batches",
            code="invalid_batch",
        )


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
