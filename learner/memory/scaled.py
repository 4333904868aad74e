"""Pictures scaled down: whole exemplars in fewer bytes without any model.

The oldest way to make an exemplar smaller. With one pixel of each cell in place of the cell's mean it is what GPS does
(Ma et al., "Distilling Compact Memories via Grid-based Patch Sampling", arXiv 2504.10409), which also puts several such
pictures beside each other for replay; here each is enlarged again, so that the model sees pictures of one size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.memory.settings import Resample
from learner.model.tokens import Tokens


def shrink(tokens: Tokens, scale: float, resample: Resample = "area") -> Tokens:
    """Pictures at a share of their sides, in whole patches: a grid ``(h, w)`` becomes ``(round(h * scale), ...)``, at
    least 1 each.

    Args:
        tokens: ``(N, ...)`` whole pictures, patches in row-major order.
        resample: what becomes of a cell of pixels: its mean (``area``), or the one in its middle (``pixel``).
    """
    return _resized(tokens, scale, "area" if resample == "area" else "nearest-exact")


def enlarge(tokens: Tokens, scale: float) -> Tokens:
    """Pictures that :func:`shrink` made smaller, about as large as they were: a grid ``(h, w)`` becomes
    ``(round(h / scale), ...)``."""
    return _resized(tokens, 1 / scale, "bilinear")


def _resized(tokens: Tokens, factor: float, mode: str) -> Tokens:
    if not len(tokens):
        return tokens
    grid = (tokens.grid * factor).round().long().clamp(min=1)
    patches = tokens.patches.new_zeros((len(tokens), int(grid.prod(1).max()), *tokens.patches.shape[2:]))
    for old in tokens.grid.unique(dim=0):
        rows = (tokens.grid == old).all(1).nonzero()[:, 0]
        new = grid[rows[0]]
        part = _resize(tokens.patches[rows, : int(old.prod())], tuple(old.tolist()), tuple(new.tolist()), mode)
        patches[rows, : part.shape[1]] = part
    places = torch.arange(patches.shape[1], device=grid.device).expand(len(tokens), -1)
    valid = places < grid.prod(1, keepdim=True)
    return replace(tokens, patches=patches, patch_positions=places * valid, patch_valid=valid, grid=grid)


def _resize(patches: Tensor, old: tuple[int, ...], new: tuple[int, ...], mode: str) -> Tensor:
    """Patches ``(B, h * w, P, P, 3)`` of pictures of one grid -> those of another."""
    side = patches.shape[2]
    pictures = patches.reshape(-1, *old, side, side, 3).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    align = {"align_corners": False} if mode == "bilinear" else {}
    size = [rows * side for rows in new]
    resized = F.interpolate(pictures.float(), size, mode=mode, **align).round().to(torch.uint8)
    cells = resized.reshape(-1, 3, new[0], side, new[1], side).permute(0, 2, 4, 3, 5, 1)
    return cells.reshape(len(patches), -1, side, side, 3)
