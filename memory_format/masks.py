"""Keep masks as bits, and kept patches as an image.

A mask is a boolean array, True = kept. On disk and on the wire it is a bitmask: row-major, the first cell in
the most significant bit of the first byte (``numpy.packbits``), the unused bits of the last byte zero.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memory_format.errors import FormatError

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]

Layout = Literal["mosaic", "in_place"]
"""``mosaic``: kept patches packed into the smallest near-square grid. ``in_place``: the whole picture, its
dropped patches painted flat. Which is smaller depends on the image codec (docs/decisions/0003-webp-in-place.md)."""


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


def canvas_grid(num_kept: int, grid: tuple[int, int], layout: Layout) -> tuple[int, int]:
    """Rows and columns (in patches) of the coded image."""
    if layout == "in_place":
        return grid
    columns = max(1, int(np.ceil(np.sqrt(num_kept))))
    return max(1, -(-num_kept // columns)), columns


def image_to_patches(image: ByteArray, patch_px: int) -> ByteArray:
    """``(h*P, w*P, 3)`` image -> ``(h*w, P, P, 3)`` patches, row-major.

    Raises:
        FormatError: a side is not a multiple of ``patch_px``.
    """
    height, width, channels = image.shape
    if height % patch_px or width % patch_px:
        raise FormatError(f"a {height}x{width} image does not divide into patches of {patch_px} px")
    h, w = height // patch_px, width // patch_px
    patches = image.reshape(h, patch_px, w, patch_px, channels).swapaxes(1, 2)
    return np.ascontiguousarray(patches.reshape(h * w, patch_px, patch_px, channels))


def patches_to_image(patches: ByteArray, grid: tuple[int, int]) -> ByteArray:
    """``(h*w, P, P, 3)`` patches -> ``(h*P, w*P, 3)`` image: inverse of :func:`image_to_patches`."""
    h, w = grid
    patch_px, channels = patches.shape[1], patches.shape[3]
    image = patches.reshape(h, w, patch_px, patch_px, channels).swapaxes(1, 2)
    return np.ascontiguousarray(image.reshape(h * patch_px, w * patch_px, channels))


def lay_out(patches: ByteArray, keep_mask: BoolArray, grid: tuple[int, int], layout: Layout) -> ByteArray:
    """Kept patches ``(K, P, P, 3)`` -> the image that the codec sees.

    Cells that hold no patch are painted with the mean colour of the kept ones: flat areas cost next to
    nothing, and a colour near the content's keeps the transform from ringing into kept blocks.
    """
    rows, columns = canvas_grid(len(patches), grid, layout)
    # Rounded, so that a canvas of identical patches has no seam.
    fill = np.rint(patches.mean(axis=(0, 1, 2))).astype(np.uint8)
    canvas = np.empty((rows * columns, *patches.shape[1:]), dtype=np.uint8)
    canvas[:] = fill
    if layout == "in_place":
        canvas[mask_to_indices(keep_mask)] = patches
    else:
        canvas[: len(patches)] = patches
    return patches_to_image(canvas, (rows, columns))


def take_out(canvas: ByteArray, keep_mask: BoolArray, patch_px: int, layout: Layout) -> ByteArray:
    """Inverse of :func:`lay_out`: the kept patches ``(K, P, P, 3)`` of a decoded canvas."""
    cells = image_to_patches(canvas, patch_px)
    indices = mask_to_indices(keep_mask)
    return cells[indices] if layout == "in_place" else cells[: len(indices)]
