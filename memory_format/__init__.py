"""The exemplar record: what the service and its clients must agree on. No I/O."""

from memory_format.api.terms import MEDIA_TYPE
from memory_format.canvas import Layout, image_to_patches, patches_to_image
from memory_format.codecs import (
    AVIF,
    CODECS,
    JPEG,
    PatchCodec,
    RawZstd,
    WebP,
    WebPLossless,
    codec_available,
    codec_class,
    make_codec,
    require_codec,
)
from memory_format.errors import (
    ERROR_CODES,
    AccessError,
    BudgetError,
    BusyError,
    ConflictError,
    ErrorCode,
    ExemplarMemoryError,
    FormatError,
    MissingLibraryError,
    NotFoundError,
    StorageError,
)
from memory_format.header import HEADER_BYTES
from memory_format.in_place import Dropped
from memory_format.quality import TargetBytes, TargetGain, TargetPSNR, kept_psnr
from memory_format.record import Record, check_record, make_record
from memory_format.unpack import UnpackedBatch, unpack_batch
from memory_format.wire import (
    Batch,
    check_batch,
    decode_batch,
    encode_batch,
    frame_batch,
    read_batch,
    split_batch,
    write_batch,
)

__all__ = [
    "AVIF",
    "AccessError",
    "CODECS",
    "ERROR_CODES",
    "HEADER_BYTES",
    "JPEG",
    "MEDIA_TYPE",
    "Batch",
    "BudgetError",
    "BusyError",
    "ConflictError",
    "Dropped",
    "ErrorCode",
    "ExemplarMemoryError",
    "FormatError",
    "Layout",
    "MissingLibraryError",
    "NotFoundError",
    "PatchCodec",
    "RawZstd",
    "Record",
    "StorageError",
    "TargetBytes",
    "TargetGain",
    "TargetPSNR",
    "UnpackedBatch",
    "WebP",
    "WebPLossless",
    "check_batch",
    "check_record",
    "codec_available",
    "codec_class",
    "decode_batch",
    "encode_batch",
    "image_to_patches",
    "kept_psnr",
    "make_codec",
    "make_record",
    "patches_to_image",
    "read_batch",
    "frame_batch",
    "require_codec",
    "split_batch",
    "unpack_batch",
    "write_batch",
]
