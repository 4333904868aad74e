"""The libraries that do the work: Pillow, which is always there, and imagecodecs, which may be.

imagecodecs decodes from bytes to an array without the interpreter's lock, in a half to a quarter of Pillow's
time for small images (docs/decisions/0006-codecs-and-headers.md), so it is preferred where it is installed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from memory_format.canvas import ByteArray, bad_size, size_is_allowed
from memory_format.errors import FormatError

HAVE_IMAGECODECS = find_spec("imagecodecs") is not None

# What libraries raise on damage; which one of them depends on where they notice it.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, MemoryError, Image.DecompressionBombError)


def refuse_over_limit(size: tuple[int, int]) -> None:
    """Before a library sees a payload: opening alone sets up buffers of the size that its header states."""
    if not size_is_allowed(*size):
        raise bad_size(*size, "invalid_payload")


def decode_with(name: str, decode: Callable[..., ByteArray], *arguments: Any, **options: Any) -> ByteArray:
    """Call a library's decoder; its complaint becomes a ``FormatError``."""
    try:
        return decode(*arguments, **options)
    except _DAMAGE as error:
        raise FormatError(f"the {name} payload is damaged: {error}", code="invalid_payload") from error


def decode_with_pillow(name: str, data: bytes) -> ByteArray:
    """A file's bytes -> ``(H, W, 3)`` uint8, by the one Pillow plugin of that name."""

    def decode() -> ByteArray:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            return np.asarray(image.convert("RGB"))

    return decode_with(name, decode)


def encode_with_pillow(name: str, image: ByteArray, **options: Any) -> bytes:
    """``(H, W, 3)`` uint8 -> a file's bytes."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, name, **options)
    return out.getvalue()
