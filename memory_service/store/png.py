"""A record's picture as a file that anything shows."""

from __future__ import annotations

import io

from PIL import Image

from memory_format import Dropped, FormatError, Record
from memory_format.in_place import FILL, check_shown_size, kept_rows


def to_png(record: Record, *, dropped: Dropped = "grey", scale: int = 1, picture: int = 0) -> bytes:
    """The whole grid of one of the record's pictures as PNG, ``(h*P*scale, w*P*scale)`` pixels.

    Raises:
        FormatError: ``invalid_query`` where the picture would be too large, or there is none of that place;
            ``invalid_payload`` where the payload has a sound header and cannot be decoded all the same.
    """
    if picture >= record.num_pictures:
        raise FormatError(
            f"the record has {record.num_pictures} pictures, 0..{record.num_pictures - 1}, and no {picture}",
            code="invalid_query",
        )
    record = record.picture(picture)
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
