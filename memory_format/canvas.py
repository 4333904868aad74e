"""Kept patches as the one image that a codec codes, and back."""

from __future__ import annotations

import numpy as np

from memory_format.masks import (
    BoolArray,
    ByteArray,
    Layout,
    canvas_grid,
    image_to_patches,
    mask_to_indices,
    patches_to_image,
)


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
        cells[mask_to_indices(keep_mask)] = patches
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


def take_out(canvas: ByteArray, keep_mask: BoolArray, patch_px: int, layout: Layout) -> ByteArray:
    """Inverse of :func:`lay_out`: the kept patches ``(K, P, P, 3)`` of a decoded canvas."""
    cells = image_to_patches(canvas, patch_px)
    indices = mask_to_indices(keep_mask)
    return cells[indices] if layout == "in_place" else cells[: len(indices)]
