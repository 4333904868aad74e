"""JPEG without its tables: they follow from the quality, as everybody's encoder derives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, get_args

from PIL import features

from memory_format.arguments import is_one_of
from memory_format.canvas import ByteArray, check_size
from memory_format.codecs.avif import Subsampling
from memory_format.codecs.jpeg_tables import HUFFMAN_TABLES, ZIGZAG, quantisation_tables, segment
from memory_format.codecs.libraries import decode_file, encode_with_pillow
from memory_format.codecs.lossy import LossyCodec
from memory_format.errors import FormatError
from memory_format.quality import QualityLike

_HEAD_BYTES = 6
_SUBSAMPLED = 1  # flags: 4:2:0, else 4:4:4
_OWN_TABLES = 2  # the scan is preceded by Huffman tables of its own
_MOST_TABLE_BYTES = 2 * (17 + 12 + 17 + 162)  # DC and AC, luma and chroma
_SCAN = segment(0xDA, b"\3\1\0\2\x11\3\x11\0\x3f\0")
_MARKER = re.compile(rb"\xff[^\0]")


@dataclass(frozen=True)
class JPEG(LossyCodec):
    """Baseline JPEG: the fastest to decode, and what GPUs decode in hardware.

    A payload is height and width (uint16 each), quality, flags, and the entropy-coded scan.
    """

    codec_id: ClassVar[str] = "em_jpeg"
    number: ClassVar[int] = 5
    block_px: ClassVar[int] = 8
    lowest: ClassVar[int] = 1

    quality: QualityLike = 60
    """1..100, the Independent JPEG Group's scale, or a target."""
    subsampling: Subsampling = "4:4:4"
    """Of the colours. At equal PSNR, 4:4:4 is a sixth smaller."""

    def __post_init__(self) -> None:
        if not is_one_of(self.subsampling, get_args(Subsampling)):
            raise FormatError(f"JPEG takes subsampling 4:2:0 or 4:4:4, got {self.subsampling!r}")
        super().__post_init__()

    @classmethod
    def missing_library(cls) -> str | None:
        return None if features.check("jpg") else "a Pillow that was built with JPEG"

    def encode_at(self, image: ByteArray, quality: int) -> bytes:
        height, width, _ = image.shape
        subsampled = self.subsampling == "4:2:0"
        size = height.to_bytes(2, "little") + width.to_bytes(2, "little")
        payloads: list[bytes] = []
        # Huffman tables of its own cost a small picture more than they save.
        for own_tables in (False, True):
            file = encode_with_pillow(
                "JPEG",
                image,
                qtables=list(quantisation_tables(quality)),
                subsampling=self.subsampling,
                optimize=own_tables,
            )
            tables, scan = _take_apart(file, own_tables)
            flags = (_SUBSAMPLED if subsampled else 0) | (_OWN_TABLES if own_tables else 0)
            payloads.append(size + bytes((quality, flags)) + tables + scan)
        return min(payloads, key=len)

    @classmethod
    def read_size(cls, payload: bytes) -> tuple[int, int]:
        if len(payload) <= _HEAD_BYTES or not 1 <= payload[4] <= 100 or payload[5] > 3:
            raise FormatError("the payload is not a size, a quality, flags and a JPEG scan", code="invalid_payload")
        height, width = int.from_bytes(payload[0:2], "little"), int.from_bytes(payload[2:4], "little")
        if not (height and width):
            raise FormatError(f"a JPEG payload of {height}x{width} px", code="invalid_payload")
        return height, width

    @classmethod
    def file(cls, payload: bytes) -> bytes:
        """A payload as a JPEG file, for other decoders.

        Raises:
            FormatError: it is no such payload, or holds a picture over the limit.
        """
        height, width = cls.read_size(payload)
        check_size(height, width, "invalid_payload")
        return _put_together(height, width, payload[4], payload[5], bytes(payload[_HEAD_BYTES:]))

    @classmethod
    def decode_image(cls, payload: bytes) -> ByteArray:
        return decode_file(cls, "JPEG", cls.file(payload), "jpeg8_decode")


def _take_apart(file: bytes, own_tables: bool) -> tuple[bytes, bytes]:
    """Huffman tables (empty, or their segments as one) and the scan of a JPEG file."""
    place, tables = 2, b""
    while file[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(file[place + 2 : place + 4], "big")
        if own_tables and file[place + 1] == 0xC4:
            tables += file[place + 4 : end]
        place = end
    if own_tables:
        tables = len(tables).to_bytes(2, "little") + tables
    return tables, file[place + 2 + int.from_bytes(file[place + 2 : place + 4], "big") : -2]


def _put_together(height: int, width: int, quality: int, flags: int, rest: bytes) -> bytes:
    """The JPEG file of a payload."""
    huffman = HUFFMAN_TABLES
    if flags & _OWN_TABLES:
        length = int.from_bytes(rest[:2], "little")
        if not 0 < length <= min(len(rest) - 2, _MOST_TABLE_BYTES):
            raise FormatError(f"a JPEG payload has no tables of {length} bytes", code="invalid_payload")
        huffman, rest = segment(0xC4, rest[2 : 2 + length]), rest[2 + length :]
    # A second scan, table or picture could make a decoder do and take more than the header says.
    if _MARKER.search(rest):
        raise FormatError("the JPEG payload has a marker in its scan", code="invalid_payload")
    sampling = 0x22 if flags & _SUBSAMPLED else 0x11
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    frame = segment(0xC0, b"\x08", size, bytes((3, 1, sampling, 0, 2, 0x11, 1, 3, 0x11, 1)))
    return b"".join((b"\xff\xd8", _quantisation_segment(quality), frame, huffman, _SCAN, rest, b"\xff\xd9"))


@lru_cache(maxsize=128)
def _quantisation_segment(quality: int) -> bytes:
    luma, chroma = quantisation_tables(quality)
    return segment(0xDB, b"\0", bytes(luma[i] for i in ZIGZAG), b"\1", bytes(chroma[i] for i in ZIGZAG))
