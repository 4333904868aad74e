"""AVIF without its boxes: what is left of an AV1 still picture, some 285 bytes less."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from PIL import features

from memory_format.arguments import is_one_of, is_whole
from memory_format.canvas import ByteArray
from memory_format.codecs import libraries
from memory_format.codecs.av1 import av1_size, avif_of_payload, payload_of_avif
from memory_format.codecs.libraries import (
    decode_with,
    decode_with_pillow,
    encode_with_pillow,
    refuse_over_limit,
)
from memory_format.codecs.lossy import LossyCodec
from memory_format.errors import FormatError
from memory_format.quality import QualityLike, parse_quality, quality_config

Subsampling = Literal["4:2:0", "4:4:4"]


class AVIF(LossyCodec):
    """The densest lossy codec.

    Args:
        quality: 0..100, libavif's scale, or a target.
        speed: 0..10, 0 = slowest and smallest. 6 takes a fifth of 4's time, for 6 % more bytes.
        subsampling: of the colours.
    """

    codec_id = "em_avif"
    number: ClassVar[int] = 4

    def __init__(self, quality: QualityLike = 40, speed: int = 4, subsampling: Subsampling = "4:4:4") -> None:
        if not is_whole(speed, 0, 10) or not is_one_of(subsampling, get_args(Subsampling)):
            raise FormatError(
                f"AVIF takes speed 0..10 and subsampling 4:2:0 or 4:4:4, got {speed!r} and {subsampling!r}"
            )
        self.require()
        self.quality = parse_quality(quality, self.lowest, self.highest)
        self.speed = speed
        self.subsampling = subsampling

    @classmethod
    def missing_library(cls) -> str | None:
        return None if features.check("avif") else "a Pillow that was built with AVIF, as its wheels are"

    def encode_at(self, image: ByteArray, quality: int) -> bytes:
        file = encode_with_pillow(
            "AVIF",
            image,
            quality=quality,
            speed=self.speed,
            subsampling=self.subsampling,
            codec="aom",
            # Tiles, from 640x416 px on, are for threads that are not there, and cost bytes.
            max_threads=1,
            autotiling=False,
            # The default tunes for looks, at more bytes for the same error.
            advanced={"tune": "psnr"},
        )
        return payload_of_avif(file)

    @classmethod
    def read_size(cls, payload: bytes) -> tuple[int, int]:
        return av1_size(payload)

    @classmethod
    def decode_image(cls, payload: bytes) -> ByteArray:
        refuse_over_limit(av1_size(payload))
        file = avif_of_payload(payload)
        if libraries.HAVE_IMAGECODECS:
            import imagecodecs

            return decode_with("AVIF", imagecodecs.avif_decode, file, numthreads=1)
        cls.require()
        return decode_with_pillow("AVIF", file)

    def get_config(self) -> dict[str, Any]:
        return {
            "id": self.codec_id,
            "quality": quality_config(self.quality),
            "speed": self.speed,
            "subsampling": self.subsampling,
        }
