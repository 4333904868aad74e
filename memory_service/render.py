"""A record as a picture: its kept patches in place, the dropped ones flat."""

from __future__ import annotations

import io
from typing import Final, Literal

import numpy as np
from PIL import Image

from memory_format import FormatError, Record
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
    mode = "RGBA" if dropped == "transparent" else "RGB"
    channels = len(mode)
    image = Image.new(mode, (width, height), _FILL[dropped][:channels])
    patches = record.patches()
    # A row of the grid at a time: beside the picture itself, next to nothing is held.
    kept_rows, kept_columns = np.divmod(record.keep_indices, w)
    for row in np.unique(kept_rows):
        of_row = kept_rows == row
        cells: ByteArray = np.empty((record.patch_px, w, record.patch_px, channels), dtype=np.uint8)
        cells[:] = _FILL[dropped][:channels]
        cells[:, kept_columns[of_row], :, :3] = patches[of_row].swapaxes(0, 1)
        cells[:, kept_columns[of_row], :, 3:] = 255
        strip = cells.reshape(record.patch_px, w * record.patch_px, channels)
        strip = strip.repeat(scale, axis=0).repeat(scale, axis=1)
        image.paste(Image.fromarray(strip), (0, int(row) * record.patch_px * scale))
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=3)
    return out.getvalue()
