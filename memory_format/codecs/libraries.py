"""The libraries that do the work: Pillow, which is always there, and imagecodecs, which may be.

imagecodecs decodes from bytes to an array without the interpreter's lock, in a half to a quarter of Pillow's
time for small images (docs/decisions/0006-codecs-and-headers.md), so it is preferred where it is installed.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from memory_format.canvas import ByteArray
from memory_format.codecs.base import PatchCodec
from memory_format.errors import FormatError

HAVE_IMAGECODECS = find_spec("imagecodecs") is not None

# What libraries raise on damage; which one of them depends on where they notice it.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, MemoryError, Image.DecompressionBombError)


def decode_file(codec: type[PatchCodec], name: str, file: bytes, decoder: str, **options: Any) -> ByteArray:
    """A file's bytes -> ``(H, W, 3)`` uint8. Its size is known to be sane: opening alone sets up buffers of it.

    Args:
        name: Pillow's of the format, the only one that is tried.
        decoder: imagecodecs' function, which takes ``options``.

    Raises:
        FormatError: what a library complains of.
        MissingLibraryError: neither of them can.
    """
    if not HAVE_IMAGECODECS:
        codec.require()
    try:
        if HAVE_IMAGECODECS:
            import imagecodecs

            decoded: ByteArray = getattr(imagecodecs, decoder)(file, **options)
            return decoded
        with Image.open(io.BytesIO(file), formats=[name]) as image:
            return np.asarray(image.convert("RGB"))
    except _DAMAGE as error:
        raise FormatError(f"the {name} payload is damaged: {error}", code="invalid_payload") from error


def encode_with_pillow(name: str, image: ByteArray, **options: Any) -> bytes:
    """``(H, W, 3)`` uint8 -> a file's bytes."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, name, **options)
    return out.getvalue()
