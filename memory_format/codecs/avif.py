"""AVIF without its boxes: what is left of an AV1 still picture, some 285 bytes less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from PIL import features

from memory_format.arguments import is_one_of, is_whole
from memory_format.canvas import ByteArray, check_size
from memory_format.codecs.av1 import av1_size, avif_of_payload, payload_of_avif
from memory_format.codecs.libraries import decode_file, encode_with_pillow
from memory_format.codecs.lossy import LossyCodec
from memory_format.errors import FormatError
from memory_format.quality import QualityLike

Subsampling = Literal["4:2:0", "4:4:4"]


@dataclass(frozen=True)
class AVIF(LossyCodec):
    """The densest lossy codec."""

    codec_id: ClassVar[str] = "em_avif"
    number: ClassVar[int] = 4
    block_px: ClassVar[int] = 8

    quality: QualityLike = 40
    """0..100, libavif's scale, or a target."""
    speed: int = 4
    """0..10, 0 = slowest and smallest. 6 takes a fifth of 4's time, for 6 % more bytes."""
    subsampling: Subsampling = "4:4:4"
    """Of the colours."""

    def __post_init__(self) -> None:
        if not is_whole(self.speed, 0, 10) or not is_one_of(self.subsampling, get_args(Subsampling)):
            raise FormatError(
                f"AVIF takes speed 0..10 and subsampling 4:2:0 or 4:4:4, got {self.speed!r} and {self.subsampling!r}"
            )
        super().__post_init__()

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
            # By default as many as the process has processors, and libaom writes other bytes with one than with more
            # (Pillow 13.0.0, libavif 1.4.2: findings/pillow_avif_processors.sh). A record is to be the same anywhere.
            max_threads=1,
            # Tiles, from 640x416 px on, are for threads that are not there, and cost bytes.
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
        check_size(*av1_size(payload), "invalid_payload")
        return decode_file(cls, "AVIF", avif_of_payload(payload), "avif_decode", numthreads=1)
