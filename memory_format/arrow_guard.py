"""What Arrow streams from strangers may not hold, looked for before their record batches are read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from memory_format.errors import FormatError

_CONTINUATION: Final = b"\xff\xff\xff\xff"
_HEADER_SLOT: Final = 2  # of a message's table (format/Message.fbs)
_COMPRESSION_SLOT: Final = 3  # of a record batch's table


def messages(data: bytes | memoryview) -> Iterator[pa.Message]:
    """The messages of a stream, its schema first.

    A compressed buffer states its own decompressed size, which pyarrow allocates before it looks at the data:
    a few bytes could ask for terabytes. pyarrow has no option to cap or forbid it. What follows the first stream, a
    second one, say, it drops without a word.

    Raises:
        FormatError: ``invalid_batch``: buffers are compressed or of a dictionary, or bytes follow the stream's end.
        pa.ArrowException, OSError, struct.error: the stream is damaged.
    """
    if bytes(data[:4]) != _CONTINUATION:
        raise FormatError(f"a body of {len(data)} bytes is no Arrow IPC stream", code="invalid_batch")
    source = pa.BufferReader(pa.py_buffer(data))
    for message in pa.ipc.MessageReader.open_stream(source):
        if message.metadata_version != pa.ipc.MetadataVersion.V5:
            # Older versions may announce compression in a second place, and union layouts differ.
            raise FormatError("only Arrow's metadata version 5 (Arrow 1.0 and later) is taken", code="invalid_batch")
        if message.type == "dictionary":
            raise FormatError("dictionary batches are not taken", code="invalid_batch")
        if message.type == "record batch" and _is_compressed(memoryview(message.metadata)):
            raise FormatError(
                "compressed Arrow buffers are not taken; payloads are compressed already", code="invalid_batch"
            )
        yield message
    if source.tell() != len(data):
        raise FormatError(
            f"{len(data) - source.tell()} bytes follow the end of the Arrow IPC stream; one stream is taken, which may "
            "hold several batches",
            code="invalid_batch",
        )


def _is_compressed(metadata: memoryview) -> bool:
    """Whether a record batch's header, a flatbuffer that pyarrow has verified, has a BodyCompression table."""
    header = _field(metadata, struct.unpack_from("<I", metadata)[0], _HEADER_SLOT)
    return _field(metadata, header + struct.unpack_from("<I", metadata, header)[0], _COMPRESSION_SLOT) != 0


def _field(metadata: memoryview, table: int, slot: int) -> int:
    """Where a table's field lies, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    entry = 4 + 2 * slot
    if entry + 2 > struct.unpack_from("<H", metadata, vtable)[0]:
        return 0
    relative = int(struct.unpack_from("<H", metadata, vtable + entry)[0])
    return table + relative if relative else 0
