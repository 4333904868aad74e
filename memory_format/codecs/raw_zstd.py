"""Raw pixels through Zstandard: exact, and the fastest to decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numcodecs.zstd import Zstd

from memory_format.arguments import is_whole
from memory_format.canvas import ByteArray, check_size
from memory_format.codecs.base import PatchCodec
from memory_format.errors import FormatError

_SIZE_BYTES = 4  # height and width, uint16 little-endian each


@dataclass(frozen=True)
class RawZstd(PatchCodec):
    """Height and width as uint16, then one Zstandard frame of the row-major pixels."""

    codec_id: ClassVar[str] = "em_zstd"
    number: ClassVar[int] = 1
    lossless: ClassVar[bool] = True

    level: int = 3
    """1..22, Zstandard's scale."""

    def __post_init__(self) -> None:
        if not is_whole(self.level, 1, 22):
            raise FormatError(f"Zstandard takes level 1..22, got {self.level!r}")
        super().__post_init__()

    def encode_image(self, image: ByteArray) -> bytes:
        # A picture has pixels: numcodecs 0.16.6 could not decode what it makes of none
        # (findings/numcodecs_nothing_compressed.sh).
        size = np.array(image.shape[:2], dtype="<u2").tobytes()
        return size + bytes(Zstd(level=self.level).encode(image.reshape(-1)))

    @classmethod
    def read_size(cls, payload: bytes) -> tuple[int, int]:
        # 4 bytes of magic and at least 2 of frame header follow the size.
        if len(payload) < _SIZE_BYTES + 6 or payload[_SIZE_BYTES : _SIZE_BYTES + 4] != b"\x28\xb5\x2f\xfd":
            raise FormatError("the payload is not a size and a Zstandard frame", code="invalid_payload")
        return int.from_bytes(payload[0:2], "little"), int.from_bytes(payload[2:4], "little")

    @classmethod
    def decode_image(cls, payload: bytes) -> ByteArray:
        height, width = cls.read_size(payload)
        num_bytes = height * width * 3
        check_size(height, width, "invalid_payload")
        frame = payload[_SIZE_BYTES:]
        if _content_size(frame) != num_bytes:
            raise FormatError(f"the Zstandard frame does not hold {height}x{width} RGB pixels", code="payload_mismatch")
        image = np.empty(num_bytes, dtype=np.uint8)
        try:
            # Into a buffer of our own size: a frame that lies about its content cannot allocate more.
            Zstd().decode(frame, out=image)
        except (RuntimeError, ValueError) as error:
            raise FormatError(f"the Zstandard payload is damaged: {error}", code="invalid_payload") from error
        return image.reshape(height, width, 3)


def _content_size(frame: bytes) -> int | None:
    """The frame's own content size (RFC 8878, 3.1.1.1), None where it states none."""
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    flag = descriptor >> 6
    num_bytes = (1 if single_segment else 0, 2, 4, 8)[flag]
    if num_bytes == 0:
        return None
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    field = frame[start : start + num_bytes]
    return int.from_bytes(field, "little") + (256 if flag == 1 else 0)
