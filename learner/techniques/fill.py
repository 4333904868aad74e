"""Filling the places that masked exemplars dropped: an augmentation that only they can have."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from learner.tokens import Tokens

FillSource = Literal["new", "background", "batch", "mean"]
"""``new``: a whole picture of the new phase. ``background``: only those of its patches that its own mask discards, so
that no new object stands in an old class's picture. ``batch``: what another exemplar of the batch kept. ``mean``: the
mean colour of what the exemplar itself kept."""


def fill(masked: Tokens, source: FillSource, new: Tokens, new_background: Tensor, generator: torch.Generator) -> Tokens:
    """Put other patches where masked samples have none. Places that the source does not have either stay dropped.

    Args:
        masked: samples with some patches each.
        new: full samples of the same grid and patch size; one is drawn for each masked sample.
        new_background: ``(N, K)`` bool, the patches of ``new`` that are background.

    Raises:
        ValueError: the grids or patch sizes differ.
    """
    if not len(masked):
        return masked
    if new.patch_px != masked.patch_px or not torch.equal(new.grid[:1].expand_as(masked.grid), masked.grid):
        raise ValueError("filling needs donors of the same grid and patch size")
    own, own_valid = to_canvas(masked)
    if source == "mean":
        mean = own.float().sum(1, keepdim=True) / own_valid.sum(1)[:, None, None, None, None].clamp(min=1)
        # Of all pixels of a patch: one flat colour.
        donors = mean.mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(own)
        donors_valid = torch.ones_like(own_valid)
    elif source == "batch":
        shift = 1 + torch.randint(max(1, len(masked) - 1), (1,), generator=generator).item()
        donors, donors_valid = own.roll(int(shift), 0), own_valid.roll(int(shift), 0)
    else:
        chosen = torch.randint(len(new), (len(masked),), generator=generator).to(own.device)
        donors, donors_valid = new.patches[chosen], new.patch_valid[chosen]
        if source == "background":
            donors_valid = donors_valid & new_background[chosen]
    patches = torch.where(own_valid[:, :, None, None, None], own, donors)
    valid = own_valid | donors_valid
    places = torch.arange(patches.shape[1], device=own.device).expand(len(masked), -1)
    filled = replace(masked, patches=patches, patch_positions=places, patch_valid=valid)
    return filled if bool(valid.all()) else filled.keep_patches(valid)


def to_canvas(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Patches in row-major order of the whole grid ``(B, h * w, P, P, 3)``, zero where there is none, and which of the
    places have one ``(B, h * w)``.

    Raises:
        ValueError: the grids differ.
    """
    h, w = tokens.grid[0].tolist()
    if not torch.equal(tokens.grid[:1].expand_as(tokens.grid), tokens.grid):
        raise ValueError("one canvas needs samples of one grid")
    # Padding goes to a place past the end.
    place = tokens.patch_positions.masked_fill(~tokens.patch_valid, h * w)
    canvas = tokens.patches.new_zeros((len(tokens), h * w + 1, *tokens.patches.shape[2:]))
    canvas.scatter_(1, place[:, :, None, None, None].expand_as(tokens.patches), tokens.patches)
    valid = torch.zeros((len(tokens), h * w + 1), dtype=torch.bool, device=place.device).scatter_(1, place, True)
    return canvas[:, :-1], valid[:, :-1]
