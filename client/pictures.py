"""Replay batches as pictures, for models that take whole ones: dropped patches are filled, a mask says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from client._params import whole

FILL: Final = (124, 116, 104)
"""The mean colour of ImageNet's pictures: about zero once they are normalised as most models want it."""


def pictures_of(batch: Mapping[str, Tensor], fill: Sequence[int] = FILL) -> tuple[Tensor, Tensor]:
    """The pictures of a batch, of ``ReplayDataset`` and ``BufferDataset`` alike.

    Args:
        batch: B records, whole pictures and masked ones alike. Of several pictures in a record, the first is taken.
        fill: the colour of dropped patches, three values 0..255.

    Returns:
        ``(B, 3, H, W)`` uint8 RGB, and ``(B, H, W)`` bool, True where a pixel was kept; all of a whole picture is.
        Both are on the device of ``patches``.

    Raises:
        ValueError: the pictures have different sizes, or ``fill`` is no colour.
    """
    colour = colour_of(fill)
    grids = torch.unique(batch["grid"], dim=0).tolist()
    if len(grids) != 1:
        sides = ", ".join(f"{h}x{w}" for h, w in grids)
        raise ValueError(f"the pictures of this batch have different sizes, grids of {sides}: take them row by row")
    h, w = grids[0]
    patches, positions, valid = batch["patches"], batch["patch_positions"], batch["patch_valid"]
    if "patch_picture" in batch:
        valid = valid & (batch["patch_picture"] == 0)
    count, side, device = len(patches), patches.shape[2], patches.device
    rows, kept = (index.to(device) for index in valid.nonzero(as_tuple=True))
    places = positions.to(device)[rows, kept]
    cells = torch.tensor(colour, dtype=torch.uint8, device=device).repeat(count, h * w, side, side, 1)
    cells[rows, places] = patches[rows, kept]
    pixels = cells.view(count, h, w, side, side, 3).permute(0, 5, 1, 3, 2, 4).reshape(count, 3, h * side, w * side)
    mask = torch.zeros(count, h * w, dtype=torch.bool, device=device)
    mask[rows, places] = True
    mask = mask.view(count, h, 1, w, 1).expand(count, h, side, w, side).reshape(count, h * side, w * side)
    return pixels, mask


def colour_of(fill: Sequence[int]) -> tuple[int, ...]:
    """A colour, checked.

    Raises:
        ValueError: it is none.
    """
    if len(fill) != 3:
        raise ValueError(f"fill is a colour, three values 0..255, got {fill!r:.100}")
    return tuple(whole("fill", value, 0, 255) for value in fill)
