"""Kept patches in their places: a picture to look at, its dropped patches flat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from memory_format.arguments import is_one_of
from memory_format.canvas import ByteArray
from memory_format.errors import ErrorCode, FormatError

Dropped = Literal["grey", "black", "transparent"]
"""What stands for dropped patches. ``transparent`` gives pictures of four channels, RGBA."""

MAX_SHOWN_PIXELS: Final = 4096 * 4096
"""Most pixels of a picture to look at: a small record may say that it was cut out of gigapixels."""

FILL: Final[dict[Dropped, tuple[int, ...]]] = {
    "grey": (211, 211, 211),
    "black": (0, 0, 0),
    "transparent": (0, 0, 0, 0),
}
"""The colour of a dropped patch, a value for each channel."""


def to_image(patches: ByteArray, keep_indices: NDArray[np.int64], grid: tuple[int, int], dropped: Dropped) -> ByteArray:
    """The whole grid, ``(h*P, w*P, C)`` uint8: RGB, or RGBA where dropped patches are transparent.

    Args:
        patches: ``(K, P, P, 3)`` uint8, the kept ones.
        keep_indices: ``(K,)`` their places, row-major.

    Raises:
        FormatError: ``dropped`` is none of those, or the picture would be too large.
    """
    if not is_one_of(dropped, get_args(Dropped)):
        raise FormatError(f"dropped must be one of {', '.join(get_args(Dropped))}, got {dropped!r:.100}")
    (h, w), patch_px = grid, patches.shape[1]
    check_shown_size(h * patch_px, w * patch_px, "invalid_record")
    image: ByteArray = np.empty((h * patch_px, w * patch_px, len(FILL[dropped])), dtype=np.uint8)
    image[:] = FILL[dropped]
    for row, strip in kept_rows(patches, keep_indices, w, dropped):
        image[row * patch_px : (row + 1) * patch_px] = strip
    return image


def check_shown_size(height: int, width: int, code: ErrorCode) -> None:
    """Refuse a picture that nobody could look at.

    Raises:
        FormatError: it has more than :data:`MAX_SHOWN_PIXELS`.
    """
    if height * width > MAX_SHOWN_PIXELS:
        raise FormatError(
            f"the picture would be {height}x{width} px, over {MAX_SHOWN_PIXELS} in all; ask for less",
            code=code,
            limit=MAX_SHOWN_PIXELS,
        )


def kept_rows(
    patches: ByteArray, keep_indices: NDArray[np.int64], columns: int, dropped: Dropped
) -> Iterator[tuple[int, ByteArray]]:
    """The rows of a grid that have kept patches, and each one's pixels ``(P, columns*P, C)``.

    A row at a time, so that whoever draws a picture holds next to nothing beside it.
    """
    patch_px, channels = patches.shape[1], len(FILL[dropped])
    rows, places = np.divmod(keep_indices, columns)
    for row in np.unique(rows).tolist():
        here = rows == row
        cells: ByteArray = np.empty((patch_px, columns, patch_px, channels), dtype=np.uint8)
        cells[:] = FILL[dropped]
        cells[:, places[here], :, :3] = patches[here].swapaxes(0, 1)
        cells[:, places[here], :, 3:] = 255
        yield row, cells.reshape(patch_px, columns * patch_px, channels)
