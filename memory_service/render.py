"""A record as a picture: its kept patches in place, the dropped ones flat."""

from __future__ import annotations

import io
from typing import Final, Literal

import numpy as np
from PIL import Image

from memory_format import FormatError, Record, patches_to_image
from memory_format.masks import ByteArray

Dropped = Literal["grey", "black", "transparent"]

MAX_PIXELS: Final = 4096 * 4096
_FILL: Final[dict[Dropped, tuple[int, int, int, int]]] = {
    "grey": (211, 211, 211, 255),
    "black": (0, 0, 0, 255),
    "transparent": (0, 0, 0, 0),
}


def to_png(record: Record, *, dropped: Dropped = "grey", scale: int = 1) -> bytes:
    """The record's whole grid as PNG, ``(h*P*scale, w*P*scale)`` pixels.

    Raises:
        FormatError: ``invalid_query`` where the picture would be too large; ``invalid_payload`` where the
            payload has a sound header and cannot be decoded all the same.
    """
    h, w = record.grid
    height, width = h * record.patch_px * scale, w * record.patch_px * scale
    if height * width > MAX_PIXELS:
        raise FormatError(
            f"the picture would be {height}x{width} px, over {MAX_PIXELS} in all; ask for less",
            code="invalid_query",
            limit=MAX_PIXELS,
        )
    cells: ByteArray = np.empty((h * w, record.patch_px, record.patch_px, 4), dtype=np.uint8)
    cells[:] = _FILL[dropped]
    cells[record.keep_indices, :, :, :3] = record.patches()
    cells[record.keep_indices, :, :, 3] = 255
    pixels = patches_to_image(cells, record.grid)
    image = Image.fromarray(pixels if dropped == "transparent" else np.ascontiguousarray(pixels[:, :, :3]))
    if scale > 1:
        image = image.resize((width, height), Image.Resampling.NEAREST)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=3)
    return out.getvalue()
