"""The exemplar record: what the service and its clients must agree on. No I/O, but for tables that others wrote and a
look at the machine."""

from memory_format.api.terms import MEDIA_TYPE
from memory_format.canvas import Layout, image_to_patches, patches_to_image
from memory_format.codecs import CODECS, codec_available, make_codec, require_codec
from memory_format.codecs.avif import AVIF
from memory_format.codecs.base import PatchCodec
from memory_format.codecs.jpeg import JPEG
from memory_format.codecs.raw_zstd import RawZstd
from memory_format.codecs.webp import WebP, WebPLossless
from memory_format.errors import (
    ERROR_CODES,
    AccessError,
    BudgetError,
    BusyError,
    ConflictError,
    ErrorCode,
    ExemplarMemoryError,
    ForbiddenError,
    FormatError,
    MissingLibraryError,
    NotFoundError,
    StorageError,
    UnauthenticatedError,
)
from memory_format.header import HEADER_BYTES
from memory_format.in_place import Dropped
from memory_format.make import make_record, make_record_of_parts
from memory_format.parts import Picture, Text
from memory_format.quality import TargetBytes, TargetGain, TargetPSNR
from memory_format.record import Record
from memory_format.tables import read_records
from memory_format.vocabulary import vocabulary_fingerprint
from memory_format.wire import Batch, check_batch, decode_batch, encode_batch, read_batch

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
    "ForbiddenError",
    "FormatError",
    "Layout",
    "MissingLibraryError",
    "NotFoundError",
    "PatchCodec",
    "Picture",
    "RawZstd",
    "Record",
    "StorageError",
    "TargetBytes",
    "TargetGain",
    "TargetPSNR",
    "Text",
    "UnauthenticatedError",
    "WebP",
    "WebPLossless",
    "check_batch",
    "codec_available",
    "decode_batch",
    "encode_batch",
    "image_to_patches",
    "make_codec",
    "make_record",
    "make_record_of_parts",
    "patches_to_image",
    "read_batch",
    "read_records",
    "require_codec",
    "vocabulary_fingerprint",
]
