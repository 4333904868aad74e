"""Kept patches as the one image that a codec codes, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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

    Readers ignore those cells; their colour only decides what they cost. In place it is that of the kept pixels
    next to the cell, which spares the codec a step at each edge; else the mean of the kept patches.
    """
    rows, columns = canvas_grid(len(patches), grid, layout, patches.shape[1])
    cells = np.empty((rows * columns, *patches.shape[1:]), dtype=np.uint8)
    # Rounded, so that a canvas of identical patches has no seam.
    cells[:] = np.rint(patches.mean(axis=(0, 1, 2)))
    if layout == "in_place":
        cells[mask_to_indices(keep_mask)] = patches
        if not keep_mask.all():
            discarded = ~keep_mask.reshape(-1)
            cells[discarded] = _colours_beside(patches, keep_mask).reshape(-1, 1, 1, 3)[discarded]
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


def _colours_beside(patches: ByteArray, keep_mask: BoolArray) -> NDArray[np.uint8]:
    """A colour for every cell of the grid: the mean of what borders it, spreading from the kept cells outwards.

    Returns:
        ``(h, w, 3)``.
    """
    h, w = keep_mask.shape
    # What a kept cell shows on each side, in a frame of empty cells: down, up, right, left.
    edges = np.zeros((4, h + 2, w + 2, 3))
    weight = np.zeros((h + 2, w + 2, 1))
    inside = (slice(1, -1), slice(1, -1))
    weight[inside][keep_mask] = 1
    for side, line in enumerate((patches[:, -1], patches[:, 0], patches[:, :, -1], patches[:, :, 0])):
        edges[side][inside][keep_mask] = line.mean(axis=1)
    while True:
        parts = (
            (edges[0][:-2, 1:-1], weight[:-2, 1:-1]),
            (edges[1][2:, 1:-1], weight[2:, 1:-1]),
            (edges[2][1:-1, :-2], weight[1:-1, :-2]),
            (edges[3][1:-1, 2:], weight[1:-1, 2:]),
        )
        count = sum(weights for _, weights in parts)
        reached = (weight[inside] == 0) & (count > 0)
        if not reached.any():
            colours: NDArray[np.uint8] = np.rint(edges[0][inside]).astype(np.uint8)
            return colours
        means = sum(values * weights for values, weights in parts) / np.maximum(count, 1)
        for side in range(4):
            edges[side][inside] = np.where(reached, means, edges[side][inside])
        weight[inside][reached] = 1
