"""WebP through Pillow, lossy and lossless."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from memory_format.codecs.base import MAX_SIDE_PX, PatchCodec
from memory_format.errors import FormatError
from memory_format.masks import ByteArray, Layout


def _open(payload: bytes) -> Image.Image:
    """Open without decoding. Pillow reports damage as any of OSError, ValueError, SyntaxError."""
    # Opening sets up a decoder with buffers of the size that the header states. Within the limit, Pillow's
    # own warning of decompression bombs (89 million pixels) cannot fire.
    if max(_webp_size(payload)) > MAX_SIDE_PX:
        raise FormatError(f"WebP sides are at most {MAX_SIDE_PX} px", code="invalid_payload")
    try:
        return Image.open(io.BytesIO(payload), formats=["WEBP"])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError) as error:
        raise FormatError(f"the payload is not a readable WebP image: {error}", code="invalid_payload") from error


class _WebPBase(PatchCodec):
    @classmethod
    def read_size(cls, payload: bytes) -> tuple[int, int]:
        width, height = _webp_size(payload)
        return height, width

    @classmethod
    def decode_image(cls, payload: bytes) -> ByteArray:
        with _open(payload) as image:
            try:
                return np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise FormatError(f"the WebP payload is damaged: {error}", code="invalid_payload") from error


def _webp_size(payload: bytes) -> tuple[int, int]:
    """``(width, height)`` from the bitstream's own header (RFC 9649, sections 2.5-2.7).

    Read by hand because opening with Pillow copies the payload and sets up a decoder: 25 times slower, on the
    path of every push. Extended files (animation, alpha, metadata) are refused: an exemplar needs none of
    them, and their canvas size need not be the image's.
    """
    if len(payload) < 30 or payload[:4] != b"RIFF" or payload[8:12] != b"WEBP":
        raise FormatError("the payload is not a WebP image (no RIFF/WEBP header)", code="invalid_payload")
    if int.from_bytes(payload[4:8], "little") + 8 != len(payload):
        raise FormatError("the WebP payload is cut short or has bytes after its end", code="invalid_payload")
    kind, frame = payload[12:16], payload[20:30]
    if kind == b"VP8 " and frame[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(frame[6:8], "little") & 0x3FFF, int.from_bytes(frame[8:10], "little") & 0x3FFF
    if kind == b"VP8L" and frame[0] == 0x2F:
        bits = int.from_bytes(frame[1:5], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    raise FormatError("the payload is not a simple WebP image (VP8 or VP8L)", code="invalid_payload")


class WebP(_WebPBase):
    """Lossy WebP: the default. In place, because flat areas cost it less than a mosaic's seams.

    Args:
        quality: 0..100, libwebp's scale.
        method: 0..6, effort.
    """

    codec_id = "em_webp"
    number: ClassVar[int] = 2
    layout: ClassVar[Layout] = "in_place"
    lossless: ClassVar[bool] = False

    def __init__(self, quality: int = 30, method: int = 4) -> None:
        if not (0 <= quality <= 100 and 0 <= method <= 6):
            raise FormatError(f"WebP takes quality 0..100 and method 0..6, got {quality} and {method}")
        self.quality = quality
        self.method = method

    def encode_image(self, image: ByteArray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "WEBP", quality=self.quality, method=self.method)
        return out.getvalue()

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, "quality": self.quality, "method": self.method}


class WebPLossless(_WebPBase):
    """Lossless WebP on a mosaic.

    Args:
        method: 0..6, effort; 0 is four times faster than 4 for 3 % more bytes.
    """

    codec_id = "em_webp_lossless"
    number: ClassVar[int] = 3
    layout: ClassVar[Layout] = "mosaic"
    lossless: ClassVar[bool] = True

    def __init__(self, method: int = 0) -> None:
        if not 0 <= method <= 6:
            raise FormatError(f"WebP takes method 0..6, got {method}")
        self.method = method

    def encode_image(self, image: ByteArray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "WEBP", lossless=True, quality=20, method=self.method)
        return out.getvalue()

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, "method": self.method}
