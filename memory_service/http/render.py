"""A record as a PNG file."""

from __future__ import annotations

import io

from PIL import Image

from memory_format import Dropped, Record
from memory_format.in_place import FILL, check_shown_size, kept_rows


def to_png(record: Record, *, dropped: Dropped = "grey", scale: int = 1) -> bytes:
    """The record's whole grid as PNG, ``(h*P*scale, w*P*scale)`` pixels.

    Raises:
        FormatError: ``invalid_query`` where the picture would be too large; ``invalid_payload`` where the
            payload has a sound header and cannot be decoded all the same.
    """
    h, w = record.grid
    height, width = h * record.patch_px * scale, w * record.patch_px * scale
    check_shown_size(height, width, "invalid_query")
    image = Image.new("RGBA" if dropped == "transparent" else "RGB", (width, height), FILL[dropped])
    for row, strip in kept_rows(record.patches(), record.keep_indices, w, dropped):
        scaled = strip.repeat(scale, axis=0).repeat(scale, axis=1)
        image.paste(Image.fromarray(scaled), (0, row * record.patch_px * scale))
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=3)
    return out.getvalue()
