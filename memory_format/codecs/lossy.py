"""What lossy codecs share: a quality that may be a target."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from memory_format.bitmask import BoolArray
from memory_format.canvas import ByteArray
from memory_format.codecs.base import PatchCodec, check_image
from memory_format.quality import (
    Quality,
    QualityLike,
    TargetBytes,
    TargetGain,
    kept_psnr,
    parse_quality,
    search,
    search_peak,
)

_EXACT_DB = 60.0
"""Half of all values off by one is 51 dB."""


@dataclass(frozen=True)
class _Attempt:
    payload: bytes
    psnr_db: float


class LossyCodec(PatchCodec):
    """A codec with a quality.

    Subclasses set ``lowest`` and ``highest``, the ends of their scale.
    """

    lossless: ClassVar[bool] = False
    lowest: ClassVar[int] = 0
    highest: ClassVar[int] = 100

    quality: QualityLike
    """On the codec's scale, or a target. A target's table becomes the target."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "quality", parse_quality(self.quality, self.lowest, self.highest))

    @abstractmethod
    def encode_at(self, image: ByteArray, quality: int) -> bytes:
        """``(H, W, 3)`` uint8 -> payload, at a number on the codec's scale."""

    def encode_image(self, image: ByteArray) -> bytes:
        return self.encode_canvas(image, np.ones(image.shape[:2], dtype=bool), other_bytes=0)

    def encode_canvas(self, canvas: ByteArray, kept: BoolArray, *, other_bytes: int) -> bytes:
        """Encode a picture of which only some pixels matter.

        Args:
            canvas: ``(H, W, 3)`` uint8.
            kept: ``(H, W)`` bool: what PSNR is measured on; other pixels may become anything.
            other_bytes: bytes of the record beside the payload, which a ``TargetBytes`` counts.

        Raises:
            FormatError: no codec takes such a canvas.
        """
        canvas = check_image(canvas)
        quality = cast("Quality", self.quality)
        if isinstance(quality, int):
            return self.encode_at(canvas, quality)
        attempts: dict[int, _Attempt] = {}

        def attempt(number: int) -> _Attempt:
            if number not in attempts:
                payload = self.encode_at(canvas, number)
                psnr = 0.0 if isinstance(quality, TargetBytes) else kept_psnr(canvas, self.decode_image(payload), kept)
                attempts[number] = _Attempt(payload, psnr)
            return attempts[number]

        if isinstance(quality, TargetBytes):
            most = quality.record_bytes - other_bytes
            found = search(lambda n: len(attempt(n).payload) <= most, self.lowest, self.highest, smallest=False)
        elif isinstance(quality, TargetGain):
            # A picture that comes back exactly has no finite PSNR; more bytes than that takes buy nothing.
            price = quality.db_per_kb / 1000
            found = search_peak(
                lambda n: min(attempt(n).psnr_db, _EXACT_DB) - price * len(attempt(n).payload),
                self.lowest,
                self.highest,
            )
        else:
            least = quality.psnr_db
            found = search(lambda n: attempt(n).psnr_db >= least, self.lowest, self.highest, smallest=True)
        return attempt(found).payload
