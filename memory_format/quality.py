"""How good a lossy payload is to be: a fixed quality, or a target that the quality is searched for.

A search goes over the codec's own scale: at most 8 encodings a record for a level, at most 10 for a gain.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from memory_format.arguments import is_number, is_whole
from memory_format.bitmask import BoolArray
from memory_format.canvas import ByteArray
from memory_format.errors import FormatError


@dataclass(frozen=True)
class TargetPSNR:
    """The lowest quality at which the kept patches reach ``psnr_db``; the highest where none does.

    Found by bisection, as though PSNR never fell where quality rises. On photographs it falls by hundredths of a
    decibel at most. On drawn pictures of few colours WebP's falls at many steps, by up to 1.8 dB: a higher quality than
    is needed may be found, of up to three times the bytes (Pillow 13.0.0, libwebp 1.6.0,
    findings/pillow_quality_up_and_down.sh).
    """

    psnr_db: float

    def __post_init__(self) -> None:
        if not is_number(self.psnr_db, 10, 60):
            raise FormatError(f"a target PSNR lies in 10..60 dB, got {self.psnr_db!r}")


@dataclass(frozen=True)
class TargetBytes:
    """The highest quality at which a record is charged at most ``record_bytes``; the lowest where none is.

    ``record_bytes`` counts everything of the record. Where a codec encodes an image by itself, as numcodecs
    does, it counts the payload.
    """

    record_bytes: int

    def __post_init__(self) -> None:
        if not is_whole(self.record_bytes, 1, 2**63 - 1):
            raise FormatError(f"a target is a whole number of bytes, at least one, got {self.record_bytes!r}")


@dataclass(frozen=True)
class TargetGain:
    """The quality beyond which 1,000 bytes more buy less than ``db_per_kb`` of PSNR of the kept patches.

    That is where ``PSNR - db_per_kb * kB`` peaks, sought as though it had one peak: where PSNR takes off near exactness
    (JPEG of noise, beyond quality 95) there may be another, which is not looked for.

    Records that share one gain have the highest mean PSNR that their bytes together can buy (Shoham and Gersho, IEEE
    Trans. ASSP 36, 1988: equal slopes), up to such peaks: bytes go where they add most. It is the mean of decibels that
    this serves, so PSNR differs much between records.
    """

    db_per_kb: float

    def __post_init__(self) -> None:
        if not is_number(self.db_per_kb, 0.001, 1000):
            raise FormatError(f"a target gain lies in 0.001..1000 dB per 1,000 bytes, got {self.db_per_kb!r}")


Quality = int | TargetPSNR | TargetBytes | TargetGain
"""What a lossy codec takes as ``quality``. In a configuration a target is a table, ``{"psnr_db": 35}``,
``{"record_bytes": 2000}`` or ``{"db_per_kb": 1.5}``."""

QualityLike = Quality | Mapping[str, float]
"""A quality or a target's table, as a configuration holds it."""


def parse_quality(value: Any, lowest: int, highest: int) -> Quality:
    """A quality, checked, from itself or from a configuration.

    Raises:
        FormatError: it is neither a whole number in ``lowest..highest`` nor a target.
    """
    match value:
        case {"psnr_db": int() | float() as psnr_db} if len(value) == 1:
            return TargetPSNR(float(psnr_db))
        case {"record_bytes": int() as record_bytes} if len(value) == 1:
            return TargetBytes(record_bytes)
        case {"db_per_kb": int() | float() as db_per_kb} if len(value) == 1:
            return TargetGain(float(db_per_kb))
    if isinstance(value, TargetPSNR | TargetBytes | TargetGain):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
        return value
    raise FormatError(
        f"quality is a whole number in {lowest}..{highest}, TargetPSNR(db), TargetBytes(n) or TargetGain(db), in a "
        f'configuration {{"psnr_db": db}}, {{"record_bytes": n}} or {{"db_per_kb": db}}; got {value!r}'
    )


def kept_psnr(image: ByteArray, decoded: ByteArray, kept: BoolArray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, over kept pixels alone.

    Args:
        image, decoded: ``(H, W, 3)`` uint8, or any other shape that both have.
        kept: ``(H, W)`` bool; default all.

    Raises:
        FormatError: they are not such.
    """
    for name, value in (("image", image), ("decoded", decoded)):
        if getattr(value, "dtype", None) != np.uint8:
            raise FormatError(f"{name} must be a uint8 array, got {type(value).__name__}")
    if decoded.shape != image.shape or (kept is not None and kept.shape != image.shape[: kept.ndim]):
        raise FormatError(f"image, decoded and kept are of one height and width, got {image.shape}, {decoded.shape}")
    error = (image.astype(np.int16) - decoded).astype(np.int32) ** 2
    mean = float((error if kept is None else error[kept]).mean())
    return 10 * math.log10(255**2 / mean) if mean else math.inf


def search(reaches: Callable[[int], bool], lowest: int, highest: int, *, smallest: bool) -> int:
    """The smallest (largest) quality that reaches its target, if qualities beyond one that does, do too.

    Args:
        reaches: called at most ``log2(highest - lowest) + 1`` times, at most once for a quality.

    Returns:
        where none reaches it, the end of the scale that comes nearest.
    """
    scale = range(lowest, highest) if smallest else range(highest, lowest, -1)
    return scale.start + scale.step * bisect_left(scale, True, key=reaches)


def search_peak(worth: Callable[[int], float], lowest: int, highest: int) -> int:
    """The quality that is worth most, if worth rises up to it and falls beyond.

    Small ups and downs beside the peak cost little: what is found is the best of all that were asked.

    Args:
        worth: called at most 10 times on a scale of 101, at most once for a quality.
    """
    found: dict[int, float] = {}

    def at(quality: int) -> float:
        # Beyond the scale: worth less than anything on it, and less the farther out.
        if quality > highest:
            return -math.inf
        if quality not in found:
            found[quality] = worth(quality)
        return found[quality]

    # Fibonacci's numbers divide an interval so that one of its two inner points is the next interval's too.
    smaller, larger = 1, 2
    while larger < highest - lowest + 2:
        smaller, larger = larger, smaller + larger
    low = lowest - 1
    while larger > 2:
        left, right = low + larger - smaller, low + smaller
        if at(left) < at(right):
            low = left
        smaller, larger = larger - smaller, smaller
    at(low + 1)
    return max(found, key=lambda quality: found[quality])
