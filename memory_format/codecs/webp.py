"""WebP, lossy and lossless, without the 20 bytes of RIFF around its frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import features

from memory_format.arguments import is_whole
from memory_format.canvas import ByteArray, check_size
from memory_format.codecs.base import PatchCodec
from memory_format.codecs.libraries import decode_file, encode_with_pillow
from memory_format.codecs.lossy import LossyCodec
from memory_format.errors import FormatError
from memory_format.quality import QualityLike

_FRAME_AT = 20  # RIFF, size, WEBP, kind of the chunk, its size


class _WebPBase(PatchCodec):
    """Writes bare VP8 and VP8L frames; reads them, and the WebP files that were written before.

    The two cannot be taken for each other: a file begins with RIFF, while the fourth byte of a VP8 frame is 0x9D and
    the first of a VP8L frame 0x2F.
    """

    method: int

    def __post_init__(self) -> None:
        if not is_whole(self.method, 0, 6):
            raise FormatError(f"WebP takes method 0..6, got {self.method!r}")
        super().__post_init__()

    @classmethod
    def missing_library(cls) -> str | None:
        return None if features.check("webp") else "a Pillow that was built with WebP"

    @classmethod
    def read_size(cls, payload: bytes) -> tuple[int, int]:
        return _frame_size(_frame_of(payload) if payload[:4] == b"RIFF" else payload)

    @classmethod
    def decode_image(cls, payload: bytes) -> ByteArray:
        check_size(*cls.read_size(payload), "invalid_payload")
        file = payload if payload[:4] == b"RIFF" else _file_of(payload)
        # Else the values would say how many channels there are (imagecodecs 2026.3.6,
        # findings/imagecodecs_opaque_chunk.sh).
        return decode_file(cls, "WebP", file, "webp_decode", hasalpha=False)


def _frame_size(frame: bytes) -> tuple[int, int]:
    """``(H, W)`` from the bitstream's own header (RFC 9649, sections 2.5 and 2.6; RFC 6386, 9.1).

    Read by hand because opening with Pillow copies the payload and sets up a decoder: 25 times slower, on the
    path of every push.
    """
    if len(frame) >= 10 and frame[3:6] == b"\x9d\x01\x2a" and not frame[0] & 1:
        return int.from_bytes(frame[8:10], "little") & 0x3FFF, int.from_bytes(frame[6:8], "little") & 0x3FFF
    if len(frame) >= 10 and frame[0] == 0x2F:
        bits = int.from_bytes(frame[1:5], "little")
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    raise FormatError("the payload is not a VP8 or VP8L frame, nor a simple WebP file of one", code="invalid_payload")


def _frame_of(file: bytes) -> bytes:
    """The frame in a simple WebP file.

    Extended files (animation, alpha, metadata) are refused: an exemplar needs none of them, and their canvas
    size need not be the image's.
    """
    if len(file) < 30 or file[8:12] != b"WEBP":
        raise FormatError("the payload is not a WebP image (no RIFF/WEBP header)", code="invalid_payload")
    if int.from_bytes(file[4:8], "little") + 8 != len(file):
        raise FormatError("the WebP payload is cut short or has bytes after its end", code="invalid_payload")
    kind, frame = file[12:16], file[_FRAME_AT:]
    if kind == (b"VP8L" if frame[0] == 0x2F else b"VP8 "):
        return frame
    raise FormatError("the payload is not a simple WebP image (VP8 or VP8L)", code="invalid_payload")


def _file_of(frame: bytes) -> bytes:
    kind = b"VP8L" if frame[0] == 0x2F else b"VP8 "
    padded = frame + b"\0" * (len(frame) & 1)
    sizes = (len(padded) + 12).to_bytes(4, "little"), len(frame).to_bytes(4, "little")
    return b"".join((b"RIFF", sizes[0], b"WEBP", kind, sizes[1], padded))


def _encode(image: ByteArray, **options: Any) -> bytes:
    file = encode_with_pillow("WEBP", image, **options)
    return file[_FRAME_AT : _FRAME_AT + int.from_bytes(file[16:20], "little")]


@dataclass(frozen=True)
class WebP(_WebPBase, LossyCodec):
    """Lossy WebP: the default, and fast."""

    codec_id: ClassVar[str] = "em_webp"
    number: ClassVar[int] = 2

    quality: QualityLike = 30
    """0..100, libwebp's scale, or a target."""
    method: int = 4
    """0..6, effort."""

    def encode_at(self, image: ByteArray, quality: int) -> bytes:
        return _encode(image, quality=quality, method=self.method)


@dataclass(frozen=True)
class WebPLossless(_WebPBase):
    """Lossless WebP."""

    codec_id: ClassVar[str] = "em_webp_lossless"
    number: ClassVar[int] = 3
    lossless: ClassVar[bool] = True

    method: int = 0
    """0..6, effort; 0 is four times faster than 4 for 3 % more bytes."""

    def encode_image(self, image: ByteArray) -> bytes:
        return _encode(image, lossless=True, quality=20, method=self.method)
