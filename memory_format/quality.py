"""How good a lossy payload is to be: a fixed quality, or a target that the quality is searched for.

A search is a bisection over the codec's own scale: at most 8 encodings a record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from memory_format.errors import FormatError
from memory_format.masks import BoolArray, ByteArray


@dataclass(frozen=True)
class TargetPSNR:
    """The lowest quality at which the kept patches reach ``psnr_db``; the highest where none does.

    Found by bisection, as though PSNR never fell where quality rises. At the top of WebP's scale it does by a few
    hundredths of a decibel, so a target that is just within reach there may be missed by as much.
    """

    psnr_db: float

    def __post_init__(self) -> None:
        if not 10 <= self.psnr_db <= 60:
            raise FormatError(f"a target PSNR lies in 10..60 dB, got {self.psnr_db}")


@dataclass(frozen=True)
class TargetBytes:
    """The highest quality at which a record is charged at most ``record_bytes``; the lowest where none is.

    ``record_bytes`` counts everything of the record. Where a codec encodes an image by itself, as numcodecs
    does, it counts the payload.
    """

    record_bytes: int

    def __post_init__(self) -> None:
        if self.record_bytes < 1:
            raise FormatError(f"a target is at least one byte, got {self.record_bytes}")


Quality = int | TargetPSNR | TargetBytes
"""What a lossy codec takes as ``quality``. In a configuration a target is a table, ``{"psnr_db": 35}`` or
``{"record_bytes": 2000}``."""

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
    if isinstance(value, TargetPSNR | TargetBytes):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
        return value
    raise FormatError(
        f"quality is a whole number in {lowest}..{highest}, TargetPSNR(db) or TargetBytes(n), in a configuration "
        f'{{"psnr_db": db}} or {{"record_bytes": n}}; got {value!r}'
    )


def quality_config(quality: Quality) -> Any:
    """Inverse of :func:`parse_quality`, in plain values."""
    return quality if isinstance(quality, int) else asdict(quality)


def kept_psnr(image: ByteArray, decoded: ByteArray, kept: BoolArray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, over kept pixels alone.

    Args:
        image, decoded: ``(H, W, 3)`` uint8.
        kept: ``(H, W)`` bool; default all.
    """
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
    low, high = lowest, highest
    while low < high:
        middle = (low + high) // 2 if smallest else (low + high + 1) // 2
        if reaches(middle) == smallest:
            low, high = (low, middle) if smallest else (low, middle - 1)
        else:
            low, high = (middle + 1, high) if smallest else (middle, high)
    return low
