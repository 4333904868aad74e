"""Pictures as patches, and kept patches as the one image that a codec codes."""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from memory_format.arguments import pixels, whole
from memory_format.bitmask import BoolArray
from memory_format.errors import ErrorCode, FormatError

MAX_SIDE_PX: Final = 4096
"""Largest side of a coded image."""

MAX_PIXELS: Final = 2048 * 2048
"""Most pixels of a coded image. They bound what any payload can make a decoder allocate (docs/format.md)."""

ByteArray = NDArray[np.uint8]

_MOST_PADDED: Final = 1.5

Layout = Literal["mosaic", "in_place", "strip"]
"""``mosaic``: kept patches packed into the smallest near-square grid. ``in_place``: the whole picture, its
discarded patches painted. ``strip``: side by side in one row, or as few rows as the widest image allows. See
:func:`default_layout`."""


def size_is_allowed(height: int, width: int) -> bool:
    """Whether a coded image may be of that size."""
    return 0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX and height * width <= MAX_PIXELS


def check_size(height: int, width: int, code: ErrorCode) -> None:
    """Refuse a coded image over the limits, before anything of its size is made."""
    if not size_is_allowed(height, width):
        raise FormatError(
            f"a coded image of {height}x{width} px; sides are at most {MAX_SIDE_PX}, pixels {MAX_PIXELS}", code=code
        )


def canvas_grid(num_kept: int, grid: tuple[int, int], layout: Layout, patch_px: int) -> tuple[int, int]:
    """Rows and columns (in patches) of the coded image."""
    if layout == "in_place":
        return grid
    num_cells = max(1, num_kept)
    columns = math.isqrt(num_cells - 1) + 1 if layout == "mosaic" else min(num_cells, MAX_SIDE_PX // patch_px)
    return -(-num_cells // columns), columns


def default_layout(keep_mask: BoolArray, patch_px: int, block_px: int = 1) -> Layout:
    """The layout that codes such a mask in the fewest bytes: ``in_place`` where more than half of the cells are kept;
    else ``strip``, or ``mosaic`` where a row of patches is much lower than the blocks that it takes
    (docs/decisions/0006-codecs-and-headers.md).

    A strip spends nothing on discarded cells, and cuts what lay one above the other: a cut that a whole picture
    pays for everywhere.

    Args:
        block_px: :attr:`~memory_format.codecs.base.PatchCodec.block_px` of the codec.
    """
    if 2 * int(keep_mask.sum()) > keep_mask.size:
        return "in_place"
    coded_px = -(-patch_px // block_px) * block_px
    return "mosaic" if coded_px > _MOST_PADDED * patch_px else "strip"


def image_to_patches(image: ByteArray, patch_px: int) -> ByteArray:
    """``(h*P, w*P, C)`` image -> ``(h*w, P, P, C)`` patches, row-major.

    Raises:
        FormatError: it is no such image, or a side is not a multiple of ``patch_px``.
    """
    pixels("image", image, "(H, W, C)")
    whole("patch_px", patch_px, 1, MAX_SIDE_PX)
    height, width, channels = image.shape
    if height % patch_px or width % patch_px:
        raise FormatError(f"a {height}x{width} image does not divide into patches of {patch_px} px")
    h, w = height // patch_px, width // patch_px
    patches = image.reshape(h, patch_px, w, patch_px, channels).swapaxes(1, 2)
    return np.ascontiguousarray(patches.reshape(h * w, patch_px, patch_px, channels))


def patches_to_image(patches: ByteArray, grid: tuple[int, int]) -> ByteArray:
    """``(h*w, P, P, C)`` patches -> ``(h*P, w*P, C)`` image: inverse of :func:`image_to_patches`.

    Raises:
        FormatError: they are no such patches, or not as many as the grid has cells.
    """
    pixels("patches", patches, "(h*w, P, P, C)")
    try:
        h, w = grid
    except (TypeError, ValueError):
        raise FormatError(f"grid must be (h, w), got {grid!r:.100}") from None
    if whole("h", h, 1, MAX_SIDE_PX) * whole("w", w, 1, MAX_SIDE_PX) != len(patches):
        raise FormatError(f"a grid of {h}x{w} cells takes as many patches, got {len(patches)}")
    patch_px, channels = patches.shape[1], patches.shape[3]
    image = patches.reshape(h, w, patch_px, patch_px, channels).swapaxes(1, 2)
    return np.ascontiguousarray(image.reshape(h * patch_px, w * patch_px, channels))


def lay_out(patches: ByteArray, keep_mask: BoolArray, grid: tuple[int, int], layout: Layout) -> ByteArray:
    """Kept patches ``(K, P, P, 3)`` -> the image that the codec sees, its other cells painted flat.

    Readers ignore those cells; their colour only decides what they cost. The mean of the kept patches costs next to
    nothing; colours drawn from the patches around a cell saved no more (docs/decisions/0006-codecs-and-headers.md).
    """
    rows, columns = canvas_grid(len(patches), grid, layout, patches.shape[1])
    cells = np.empty((rows * columns, *patches.shape[1:]), dtype=np.uint8)
    # Rounded, so that a canvas of identical patches has no seam.
    cells[:] = np.rint(patches.mean(axis=(0, 1, 2)))
    if layout == "in_place":
        cells[np.flatnonzero(keep_mask)] = patches
    else:
        cells[: len(patches)] = patches
    return patches_to_image(cells, (rows, columns))


def kept_pixels(keep_mask: BoolArray, patch_px: int, layout: Layout) -> BoolArray:
    """Which pixels of a canvas belong to kept patches: ``(H, W)`` bool."""
    cells = keep_mask
    if layout != "in_place":
        num_kept = int(keep_mask.sum())
        rows, columns = canvas_grid(num_kept, keep_mask.shape, layout, patch_px)
        cells = (np.arange(rows * columns) < num_kept).reshape(rows, columns)
    return cells.repeat(patch_px, axis=0).repeat(patch_px, axis=1)


def take_out(canvas: ByteArray, keep_indices: NDArray[np.int64], patch_px: int, layout: Layout) -> ByteArray:
    """Inverse of :func:`lay_out`: the kept patches ``(K, P, P, 3)`` of a decoded canvas.

    Args:
        keep_indices: ``(K,)`` their places, row-major.
    """
    cells = image_to_patches(canvas, patch_px)
    return cells[keep_indices] if layout == "in_place" else cells[: len(keep_indices)]
