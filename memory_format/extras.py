"""What the user hangs on a record: a small JSON object and named float16 arrays (logits, features).

One line of JSON, ``{"user": {...}, "arrays": {name: shape}}``, a newline, then the arrays' little-endian
float16 values one after another, in the JSON's order, row-major.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format.arguments import is_settings
from memory_format.errors import FormatError
from memory_format.text import refuse_constant

MAX_JSON_DEPTH = 8


def encode_extras(user_json: dict[str, Any] | None, arrays: dict[str, NDArray[Any]] | None) -> bytes:
    """The user's JSON and arrays -> bytes, empty where there is neither.

    Raises:
        FormatError: the JSON is not an object of plain values, is too deep, or an array overflows float16.
    """
    for name, value in (("user_json", user_json), ("arrays", arrays)):
        if not (value is None or is_settings(value)):
            raise FormatError(f"{name} must be a dict whose names are text, got {value!r:.100}")
    if not user_json and not arrays:
        return b""
    half = {}
    for name, values in (arrays or {}).items():
        try:
            values = np.asarray(values)
            if values.dtype.kind not in "biuf":
                raise TypeError(values.dtype)
        except (TypeError, ValueError):
            raise FormatError(f"array {name!r} must hold numbers, got {values!r:.100}") from None
        with np.errstate(over="ignore"):
            half[name] = values.astype("<f2")
        if np.isfinite(values).all() and not np.isfinite(half[name]).all():
            raise FormatError(f"array {name!r} has values beyond float16's range (65504)")
    try:
        head = json.dumps(
            {"user": user_json or {}, "arrays": {name: list(value.shape) for name, value in half.items()}},
            separators=(",", ":"),
            allow_nan=False,
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"user_json must be plain JSON: {error}") from None
    extras = head.encode() + b"\n" + b"".join(value.tobytes() for value in half.values())
    decode_extras(extras)
    return extras


def decode_extras(extras: bytes) -> tuple[dict[str, Any], dict[str, NDArray[np.float16]]]:
    """Inverse of :func:`encode_extras`: the user's JSON and arrays.

    Raises:
        FormatError: the bytes are not such a line and arrays.
    """
    if not extras:
        return {}, {}
    head, separator, data = extras.partition(b"\n")
    try:
        parsed = json.loads(head, parse_constant=refuse_constant)
        # Whoever reads it must be able to write it out again: a lone surrogate is legal in JSON's escapes
        # and in no UTF-8, and 1e999 reads as infinity.
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
        user, shapes = parsed["user"], parsed["arrays"]
    except (ValueError, KeyError, TypeError, RecursionError):
        user, shapes = None, None
    if not (
        separator
        and isinstance(user, dict)
        and isinstance(shapes, dict)
        and all(_is_shape(shape) for shape in shapes.values())
    ):
        raise FormatError('extras must be a line of JSON {"user": {...}, "arrays": {name: shape}} and the arrays')
    if _depth(user) > MAX_JSON_DEPTH:
        raise FormatError(f"user_json is nested deeper than {MAX_JSON_DEPTH} levels")
    arrays = {}
    start = 0
    for name, shape in shapes.items():
        end = start + 2 * math.prod(shape)
        if end > len(data):
            raise FormatError(f"extras end inside array {name!r}")
        arrays[name] = np.frombuffer(data[start:end], dtype="<f2").reshape(shape)
        start = end
    if start != len(data):
        raise FormatError("extras have bytes past their last array")
    return user, arrays


def _is_shape(shape: Any) -> bool:
    """Whether every numpy takes it: at most 32 axes, and no overflow even where one of them is 0."""
    return (
        isinstance(shape, list)
        and len(shape) <= 32
        and all(type(n) is int and n >= 0 for n in shape)
        and math.prod(max(n, 1) for n in shape) < 2**31
    )


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return deepest - 1
