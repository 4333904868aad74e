"""Codecs of earlier versions. Their ids and numbers stay theirs, and nothing here reads what they wrote.

A record of one is kept, listed, drawn and sent as it is. What needs its pixels is ``codec_unavailable``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, NoReturn

from memory_format.canvas import ByteArray
from memory_format.codecs.base import PatchCodec


class _Retired(PatchCodec):
    """None can be made."""

    def __init__(self, **config: Any) -> None:
        raise self.unavailable()

    @classmethod
    def missing_library(cls) -> str:
        return (
            "version 0.1 of Exemplar Memory, which reads JPEG XL: decode its records there, and push them again in "
            "another codec"
        )

    @classmethod
    def check_size(cls, payload: bytes, expected: tuple[int, int]) -> None:
        """Take any payload: nothing here reads its header."""

    def encode_image(self, image: ByteArray) -> NoReturn:
        raise self.unavailable()

    @classmethod
    def read_size(cls, payload: bytes) -> NoReturn:
        raise cls.unavailable()

    @classmethod
    def decode_image(cls, payload: bytes) -> NoReturn:
        raise cls.unavailable()


class JPEGXL(_Retired):
    codec_id: ClassVar[str] = "em_jpegxl"
    number: ClassVar[int] = 6
    lossless: ClassVar[bool] = False


class JPEGXLLossless(_Retired):
    codec_id: ClassVar[str] = "em_jpegxl_lossless"
    number: ClassVar[int] = 7
    lossless: ClassVar[bool] = True


RETIRED: Final[tuple[type[PatchCodec], ...]] = (JPEGXL, JPEGXLLossless)
