"""Filling the places that masked exemplars dropped: an augmentation that only they can have."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learner.model.tokens import Tokens


def fill(masked: Tokens, new: Tokens, generator: torch.Generator, *, allowed: Tensor | None = None) -> Tokens:
    """Put patches of new pictures where masked samples have none. Places that the picture does not have either stay
    dropped.

    Where the picture's grid is another one, each place takes the patch that is nearest to it when both pictures are
    laid on top of each other.

    Args:
        masked: samples with some patches each.
        new: full samples of the same patch size, patches in row-major order; one is drawn for each masked sample.
        allowed: ``(N, K)`` bool, which patches of ``new`` may be taken; None = all.

    Raises:
        ValueError: the patch sizes differ.
    """
    if not len(masked):
        return masked
    if new.patch_px != masked.patch_px:
        raise ValueError("filling needs donors of the same patch size")
    chosen = torch.randint(len(new), (len(masked),), generator=generator).to(masked.patches.device)
    valid = new.patch_valid if allowed is None else new.patch_valid & allowed
    count = int(masked.grid.prod(1).max())
    places = torch.arange(count, device=masked.patches.device).expand(len(masked), -1)
    under = _under(places, masked.grid, new.grid[chosen])
    return behind(masked, *(_taken(values[chosen], under, count) for values in (new.patches, valid)))


def behind(masked: Tokens, donors: Tensor, donors_valid: Tensor) -> Tokens:
    """Masked samples with donors' patches in the places that they dropped.

    Args:
        donors: ``(B, K, P, P, 3)`` in row-major order of each sample's grid, K the places of the largest.
        donors_valid: ``(B, K)`` bool, which of them there are.
    """
    own, own_valid = to_canvas(masked)
    places = torch.arange(own.shape[1], device=own.device).expand(len(masked), -1)
    inside = places < masked.grid.prod(1, keepdim=True)
    patches = torch.where(own_valid[:, :, None, None, None], own, donors)
    valid = (own_valid | donors_valid) & inside
    filled = replace(masked, patches=patches, patch_positions=places * inside, patch_valid=valid)
    return filled if bool(valid.all()) else filled.keep_patches(valid)


def _under(places: Tensor, grid: Tensor, other: Tensor) -> Tensor | None:
    """``(B, K)`` places in grids ``other`` ``(B, 2)`` that lie under ``places`` of ``grid``; None: the same ones."""
    if torch.equal(grid, other):
        return None
    h, w = grid[:, :1], grid[:, 1:]
    row = (2 * (places // w) + 1) * other[:, :1] // (2 * h)
    column = (2 * (places % w) + 1) * other[:, 1:] // (2 * w)
    # Places behind a sample's own grid are padding: any will do.
    return (row * other[:, 1:] + column).clamp(max=other.prod(1, keepdim=True) - 1)


def _taken(values: Tensor, places: Tensor | None, count: int) -> Tensor:
    """``(B, K, ...)`` values at ``places``, or the first ``count``."""
    if places is None:
        return values[:, :count]
    return values.gather(
        1, places.reshape(*places.shape, *([1] * (values.dim() - 2))).expand(-1, -1, *values.shape[2:])
    )


def to_canvas(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Patches in row-major order of each sample's whole grid ``(B, K, P, P, 3)``, zero where there is none, and which
    of the places have one ``(B, K)``. K: places of the largest grid."""
    count = int(tokens.grid.prod(1).max())
    # Padding goes to a place past the end.
    place = tokens.patch_positions.masked_fill(~tokens.patch_valid, count)
    canvas = tokens.patches.new_zeros((len(tokens), count + 1, *tokens.patches.shape[2:]))
    canvas.scatter_(1, place[:, :, None, None, None].expand_as(tokens.patches), tokens.patches)
    valid = torch.zeros((len(tokens), count + 1), dtype=torch.bool, device=place.device).scatter_(1, place, True)
    return canvas[:, :-1], valid[:, :-1]
