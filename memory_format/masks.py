"""Keep masks as bits, and kept patches as an image.

A mask is a boolean array, True = kept. On disk and on the wire it is a bitmask: row-major, the first cell in
the most significant bit of the first byte (``numpy.packbits``), the unused bits of the last byte zero.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memory_format.arguments import pixels, whole
from memory_format.errors import ErrorCode, FormatError

MAX_SIDE_PX = 4096
"""Largest side of a coded image."""

MAX_PIXELS = 2048 * 2048
"""Most pixels of a coded image. They bound what any payload can make a decoder allocate (docs/format.md)."""

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]

Layout = Literal["mosaic", "in_place", "strip"]
"""``mosaic``: kept patches packed into the smallest near-square grid. ``in_place``: the whole picture, its
discarded patches painted. ``strip``: side by side in one row, or as few rows as the widest image allows. See
:func:`default_layout`."""


def size_is_allowed(height: int, width: int) -> bool:
    """Whether a coded image may be of that size."""
    return 0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX and height * width <= MAX_PIXELS


def bad_size(height: int, width: int, code: ErrorCode) -> FormatError:
    return FormatError(
        f"a coded image of {height}x{width} px; sides are at most {MAX_SIDE_PX}, pixels {MAX_PIXELS}", code=code
    )


def num_mask_bytes(num_cells: int) -> int:
    """Bytes of the bitmask of ``num_cells`` cells."""
    return (num_cells + 7) // 8


def mask_to_bytes(keep_mask: BoolArray) -> bytes:
    """``(h, w)`` or ``(N,)`` bool -> bitmask."""
    return np.packbits(np.asarray(keep_mask, dtype=bool).reshape(-1)).tobytes()


def count_kept(bitmask: bytes) -> int:
    """Cells that a bitmask keeps, without unpacking it."""
    return int.from_bytes(bitmask, "big").bit_count()


def mask_from_bytes(bitmask: bytes | memoryview, num_cells: int) -> BoolArray:
    """Bitmask -> ``(num_cells,)`` bool.

    Raises:
        FormatError: the bitmask is not exactly ``num_mask_bytes(num_cells)`` long, or has a bit set past its
            end (two byte strings for one mask would make equal records unequal).
    """
    if len(bitmask) != num_mask_bytes(num_cells):
        raise FormatError(
            f"a bitmask of {num_cells} cells takes {num_mask_bytes(num_cells)} bytes, got {len(bitmask)}",
            code="mask_mismatch",
        )
    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8))
    if bits[num_cells:].any():
        raise FormatError(f"the bitmask has bits set past its {num_cells} cells", code="mask_mismatch")
    return bits[:num_cells].astype(bool)


def mask_to_indices(keep_mask: BoolArray) -> NDArray[np.int64]:
    """Row-major indices of the kept cells, ``(K,)``, ascending."""
    return np.flatnonzero(np.asarray(keep_mask).reshape(-1)).astype(np.int64)


def mask_from_indices(keep_indices: NDArray[np.integer], num_cells: int) -> BoolArray:
    """Inverse of :func:`mask_to_indices`: ``(num_cells,)`` bool.

    Raises:
        FormatError: an index is repeated or outside ``[0, num_cells)``.
    """
    indices = np.asarray(keep_indices, dtype=np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= num_cells):
        raise FormatError(f"keep_indices must lie in [0, {num_cells})", code="mask_mismatch")
    mask = np.zeros(num_cells, dtype=bool)
    mask[indices] = True
    if int(mask.sum()) != indices.size:
        raise FormatError("keep_indices holds an index twice", code="mask_mismatch")
    return mask


def canvas_grid(num_kept: int, grid: tuple[int, int], layout: Layout, patch_px: int) -> tuple[int, int]:
    """Rows and columns (in patches) of the coded image."""
    if layout == "in_place":
        return grid
    num_cells = max(1, num_kept)
    columns = math.isqrt(num_cells - 1) + 1 if layout == "mosaic" else min(num_cells, MAX_SIDE_PX // patch_px)
    return -(-num_cells // columns), columns


def default_layout(keep_mask: BoolArray) -> Layout:
    """The layout that codes such a mask in the fewest bytes, with every codec: ``strip`` where at most half of the
    cells are kept, else ``in_place`` (docs/decisions/0006-codecs-and-headers.md).

    A strip spends nothing on discarded cells, and cuts what lay one above the other: a cut that a whole picture
    pays for everywhere.
    """
    return "strip" if 2 * int(keep_mask.sum()) <= keep_mask.size else "in_place"


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
