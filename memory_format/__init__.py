"""The exemplar record: what the service and its clients must agree on. No I/O."""

from memory_format.codecs import CODECS, PatchCodec, RawZstd, WebP, WebPLossless, codec_class, make_codec
from memory_format.errors import (
    ERROR_CODES,
    BudgetError,
    BusyError,
    ConflictError,
    ErrorCode,
    ExemplarMemoryError,
    FormatError,
    NotFoundError,
    StorageError,
)
from memory_format.masks import Layout, image_to_patches, patches_to_image
from memory_format.record import HEADER_BYTES, Record, check_record, make_record
from memory_format.wire import (
    MEDIA_TYPE,
    Batch,
    check_batch,
    decode_batch,
    encode_batch,
    frame_batch,
    read_batch,
    write_batch,
)

__all__ = [
    "CODECS",
    "ERROR_CODES",
    "HEADER_BYTES",
    "MEDIA_TYPE",
    "Batch",
    "BudgetError",
    "BusyError",
    "ConflictError",
    "ErrorCode",
    "ExemplarMemoryError",
    "FormatError",
    "Layout",
    "NotFoundError",
    "PatchCodec",
    "RawZstd",
    "Record",
    "StorageError",
    "WebP",
    "WebPLossless",
    "check_batch",
    "check_record",
    "codec_class",
    "decode_batch",
    "encode_batch",
    "image_to_patches",
    "make_codec",
    "make_record",
    "patches_to_image",
    "read_batch",
    "frame_batch",
    "write_batch",
]
