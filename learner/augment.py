"""Augmentation of token batches: views of new data and of replayed exemplars. All randomness is passed in."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learner.tokens import Tokens


def random_keep(valid: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """``(B, N)`` bool: each valid token stays with probability ``1 - drop``, and at least one of each row stays."""
    noise = torch.rand(valid.shape, generator=generator).to(valid.device).masked_fill(~valid, -1.0)
    keep = (noise >= drop) & valid
    best = torch.zeros_like(valid).scatter_(1, noise.argmax(1, keepdim=True), True)
    return keep | (best & valid)


def drop_words(tokens: Tokens, drop: float, generator: torch.Generator) -> Tokens:
    """Drop words at random; ``[CLS]`` (first) and ``[SEP]`` (last of the valid ones) stay."""
    if drop == 0:
        return tokens
    places = torch.arange(tokens.token_ids.shape[1], device=tokens.token_ids.device)
    last = tokens.token_valid.sum(1, keepdim=True) - 1
    special = ((places == 0) | (places == last)) & tokens.token_valid
    noise = torch.rand(tokens.token_valid.shape, generator=generator).to(places.device)
    return tokens.keep_tokens(special | (tokens.token_valid & (noise >= drop)))


def drop_modality(tokens: Tokens, probability: float, generator: torch.Generator) -> Tokens:
    """Take away the whole picture from some samples and all words from others, each with ``probability``.

    Without it a model that can tell most classes from one modality stops looking at the other, and attention to it
    means nothing.
    """
    if probability == 0:
        return tokens
    draw = torch.rand(len(tokens), generator=generator).to(tokens.patches.device)
    blind = draw < probability
    wordless = (draw >= probability) & (draw < 2 * probability)
    places = torch.arange(tokens.token_ids.shape[1], device=draw.device)
    last = tokens.token_valid.sum(1, keepdim=True) - 1
    special = (places == 0) | (places == last)
    return replace(
        tokens,
        patch_valid=tokens.patch_valid & ~blind[:, None],
        token_valid=tokens.token_valid & (special | ~wordless[:, None]),
    )


def fill(masked: Tokens, donors: Tokens, generator: torch.Generator) -> Tokens:
    """Put patches of other pictures where masked samples have none: every place of the grid is filled again.

    Where a donor's grid is another one, each place takes the patch that is nearest to it when both are laid on top of
    each other.

    Args:
        masked: samples with some patches each.
        donors: full samples of the same patch size, patches in row-major order; one is drawn for each masked sample.

    Raises:
        ValueError: the patch sizes differ.
    """
    if donors.patch_px != masked.patch_px:
        raise ValueError("filling needs donors of the same patch size")
    chosen = torch.randint(len(donors), (len(masked),), generator=generator).to(donors.patches.device)
    background = donors[chosen]
    places, valid = _places(masked.grid)
    nearest = _nearest(places, masked.grid, background.grid)
    index = nearest[:, :, None, None, None].expand(-1, -1, *background.patches.shape[2:])
    canvas = background.patches.gather(1, index)
    # Padding goes to a place past the end.
    place = masked.patch_positions.masked_fill(~masked.patch_valid, places.shape[1])
    canvas = torch.cat([canvas, torch.zeros_like(canvas[:, :1])], dim=1)
    index = place[:, :, None, None, None].expand_as(masked.patches)
    canvas = canvas.scatter(1, index, masked.patches)[:, :-1]
    return replace(masked, patches=canvas, patch_positions=places * valid, patch_valid=valid)


def _places(grid: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, K)`` places 0..K-1 of the largest grid, and which of them each sample's own grid ``(B, 2)`` has."""
    count = grid.prod(1)
    places = torch.arange(int(count.max()) if len(grid) else 1, device=grid.device).expand(len(grid), -1)
    return places, places < count[:, None]


def _nearest(places: Tensor, grid: Tensor, other: Tensor) -> Tensor:
    """``(B, K)`` places in grids ``other`` ``(B, 2)`` that lie under ``places`` of ``grid``."""
    h, w = grid[:, :1], grid[:, 1:]
    row = (2 * (places // w) + 1) * other[:, :1] // (2 * h)
    column = (2 * (places % w) + 1) * other[:, 1:] // (2 * w)
    # Places behind a sample's own grid are padding: any will do.
    return (row * other[:, 1:] + column).clamp(max=other.prod(1, keepdim=True) - 1)
