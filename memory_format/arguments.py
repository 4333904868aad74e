"""What callers hand over, checked before it fails somewhere inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format.errors import FormatError


def is_whole(value: object, lowest: int, highest: int) -> bool:
    """Whether it is a whole number within these ends; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(lowest <= value <= highest)


def is_number(value: Any, lowest: float, highest: float) -> bool:
    """Whether it is a number within these ends; NaN, True and False are none."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and bool(lowest <= value <= highest)


def is_one_of(value: object, choices: tuple[str, ...]) -> bool:
    """Whether it is one of these words."""
    return isinstance(value, str) and value in choices


def is_settings(value: object) -> bool:
    """Whether it is a table of values by name."""
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def whole(name: str, value: Any, lowest: int, highest: int) -> int:
    """A whole number, numpy's too, as Python's.

    Raises:
        FormatError: it is none, or lies outside.
    """
    if not is_whole(value, lowest, highest):
        raise FormatError(f"{name} must be a whole number in {lowest}..{highest}, got {value!r:.100}")
    return int(value)


def pixels(name: str, value: Any, shape: str) -> NDArray[np.uint8]:
    """An array of pixels: uint8, its colours in the last axis.

    Args:
        shape: what it must look like, ``(H, W, 3)``; with ``C`` in its last place, any number of colours.

    Raises:
        FormatError: it is something else.
    """
    if not isinstance(value, np.ndarray):
        raise FormatError(f"{name} must be a numpy array {shape} uint8, got {type(value).__name__}")
    colours = value.shape[-1:] == (3,) or shape.endswith(" C)")
    if value.ndim != shape.count(",") + 1 or not colours or value.dtype != np.uint8:
        raise FormatError(f"{name} must be {shape} uint8, got {value.shape} {value.dtype}")
    return value


def flat_whole(name: str, values: Any) -> NDArray[np.int64]:
    """``(N,)`` whole numbers; an empty list will do.

    Raises:
        FormatError: they are something else.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        array = None  # of unequal lengths
    if array is None or array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise FormatError(f"{name} must be a flat sequence of whole numbers, got {values!r:.100}")
    return array.astype(np.int64)
