"""JPEG XL, lossy and lossless, as a bare codestream. Through imagecodecs, which is optional."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from memory_format.arguments import is_whole
from memory_format.canvas import ByteArray
from memory_format.codecs import libraries
from memory_format.codecs.base import PatchCodec
from memory_format.codecs.jxl_header import check_still_picture, jxl_size
from memory_format.codecs.libraries import IMAGECODECS, decode_with, refuse_over_limit
from memory_format.codecs.lossy import LossyCodec
from memory_format.errors import FormatError
from memory_format.quality import QualityLike, parse_quality, quality_config

_MOST_EFFORT = 9
# With more, libjxl may put repeated details, of text for example, into a frame of their own.
_ONE_FRAME_EFFORT = 3


class _JPEGXLBase(PatchCodec):
    @classmethod
    def missing_library(cls) -> str | None:
        return None if libraries.HAVE_IMAGECODECS else IMAGECODECS

    @classmethod
    def read_size(cls, payload: bytes) -> tuple[int, int]:
        return jxl_size(payload)

    @classmethod
    def decode_image(cls, payload: bytes) -> ByteArray:
        check_still_picture(payload)
        refuse_over_limit(jxl_size(payload))
        cls.require()
        import imagecodecs

        image = decode_with("JPEG XL", imagecodecs.jpegxl_decode, payload, numthreads=1)
        if image.ndim != 3 or image.dtype != np.uint8:
            raise FormatError(f"the JPEG XL payload holds {image.dtype} {image.shape}", code="invalid_payload")
        return image


def _encode(image: ByteArray, effort: int, **options: Any) -> bytes:
    """One frame, as payloads must have: where libjxl made several, once more with less effort."""
    import imagecodecs

    payload = bytes(imagecodecs.jpegxl_encode(image, effort=effort, numthreads=1, **options))
    try:
        check_still_picture(payload)
    except FormatError:
        payload = bytes(imagecodecs.jpegxl_encode(image, effort=_ONE_FRAME_EFFORT, numthreads=1, **options))
    return payload


class JPEGXL(_JPEGXLBase, LossyCodec):
    """Lossy JPEG XL.

    Args:
        quality: 0..99; libjxl's map of JPEG's scale to its own distance; or a target. 100 would be distance 0, which
            is not exact and takes more bytes than :class:`JPEGXLLossless` (imagecodecs 2026.3.6, libjxl 0.11.2;
            findings/imagecodecs_jpegxl_distance_zero.sh).
        effort: 1..9.
    """

    codec_id = "em_jpegxl"
    number: ClassVar[int] = 6
    highest: ClassVar[int] = 99

    def __init__(self, quality: QualityLike = 60, effort: int = 6) -> None:
        if not is_whole(effort, 1, _MOST_EFFORT):
            raise FormatError(f"JPEG XL takes effort 1..{_MOST_EFFORT}, got {effort!r}")
        self.require()
        self.quality = parse_quality(quality, self.lowest, self.highest)
        self.effort = effort

    def encode_at(self, image: ByteArray, quality: int) -> bytes:
        return _encode(image, self.effort, distance=_distance(quality))

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, "quality": quality_config(self.quality), "effort": self.effort}


class JPEGXLLossless(_JPEGXLBase):
    """Lossless JPEG XL: the smallest of the exact codecs.

    Args:
        effort: 1..9.
    """

    codec_id = "em_jpegxl_lossless"
    number: ClassVar[int] = 7
    lossless: ClassVar[bool] = True

    def __init__(self, effort: int = 3) -> None:
        if not is_whole(effort, 1, _MOST_EFFORT):
            raise FormatError(f"JPEG XL takes effort 1..{_MOST_EFFORT}, got {effort!r}")
        self.require()
        self.effort = effort

    def encode_image(self, image: ByteArray) -> bytes:
        return _encode(image, self.effort, lossless=True)

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, "effort": self.effort}


def _distance(quality: int) -> float:
    """libjxl's ``JxlEncoderDistanceFromQuality``, for quality below 100."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25
