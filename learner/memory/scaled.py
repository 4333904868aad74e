"""Patches with fewer pixels: exemplars in fewer bytes without any model.

The oldest way to make an exemplar smaller, for whole pictures and for kept patches alike. With one pixel of each cell
in place of the cell's mean it is what GPS does (Ma et al., "Distilling Compact Memories via Grid-based Patch Sampling",
arXiv 2504.10409), which also puts several such pictures beside each other for replay; here each is enlarged again, so
that the model sees patches of one size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.memory.settings import Resample
from learner.model.tokens import Tokens


def shrink(tokens: Tokens, patch_px: int, resample: Resample = "area") -> Tokens:
    """The same patches with ``patch_px`` pixels on a side; where that divides theirs, as if whole pictures were shrunk.

    Args:
        resample: what becomes of a cell of pixels: its mean (``area``), or the one in its middle (``pixel``).
    """
    mode = "area" if resample == "area" else "nearest-exact"
    pixels = tokens.patches.flatten(0, 1).permute(0, 3, 1, 2).float()
    small = F.interpolate(pixels, [patch_px, patch_px], mode=mode).round().to(torch.uint8).permute(0, 2, 3, 1)
    return replace(tokens, patches=small.unflatten(0, tokens.patch_valid.shape))


def enlarge(tokens: Tokens, patch_px: int) -> Tokens:
    """The same patches with ``patch_px`` pixels on a side, by bilinear interpolation of whole pictures: over the edge
    between two patches that are there, and of none that are not."""
    if tokens.are_states or tokens.patch_px == patch_px:
        return tokens
    rows, columns = tokens.grid.amax(0).tolist()
    width = tokens.grid[:, 1:]
    places = tokens.patch_positions // width * columns + tokens.patch_positions % width
    held = F.pad(tokens.patches.float(), (0, 1), value=1.0) * tokens.patch_valid[:, :, None, None, None]
    cells = held.new_zeros(len(held), rows * columns, *held.shape[2:])
    # Padding is added as zeros: it may name a place that a patch has.
    cells.scatter_add_(1, _index(places, held), held)
    small = cells.unflatten(1, (rows, columns)).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    size = [rows * patch_px, columns * patch_px]
    *colours, weight = F.interpolate(small, size, mode="bilinear", align_corners=False).unbind(1)
    # Where nothing is near there is no weight either, nor a patch that is taken from there.
    pictures = torch.stack([colour / weight.clamp(min=1e-6) for colour in colours], -1).round().to(torch.uint8)
    large = pictures.unflatten(2, (columns, patch_px)).unflatten(1, (rows, patch_px)).transpose(2, 3).flatten(1, 2)
    patches = large.gather(1, _index(places, large)) * tokens.patch_valid[:, :, None, None, None]
    return replace(tokens, patches=patches)


def _index(places: Tensor, values: Tensor) -> Tensor:
    """``(B, K)`` places among the patches of ``values`` ``(B, N, P, P, C)``, for ``gather`` and ``scatter``."""
    return places[:, :, None, None, None].expand(*places.shape, *values.shape[2:])
