"""Augmentation of token batches: views of new data and of replayed exemplars. All randomness is passed in."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learner.model.tokens import Tokens, special_tokens

_LUMA = (0.299, 0.587, 0.114)
"""Grey value of a colour, ITU-R BT.601."""


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
    noise = torch.rand(tokens.token_valid.shape, generator=generator).to(tokens.token_valid.device)
    return tokens.keep_tokens(special_tokens(tokens) | (tokens.token_valid & (noise >= drop)))


def drop_modality(tokens: Tokens, probability: float, generator: torch.Generator) -> Tokens:
    """Take away the whole picture from some samples and all words from others, each with ``probability``; never what a
    sample without the other has left.

    Without it a model that can tell most classes from one modality stops looking at the other, and attention to it
    means nothing.
    """
    if probability == 0:
        return tokens
    draw = torch.rand(len(tokens), generator=generator).to(tokens.patches.device)
    special = special_tokens(tokens)
    blind = (draw < probability) & (tokens.token_valid & ~special).any(1)
    # A grid of one patch is that of a text without a picture.
    wordless = (draw >= probability) & (draw < 2 * probability) & (tokens.grid.prod(1) > 1).to(draw.device)
    return replace(
        tokens,
        patch_valid=tokens.patch_valid & ~blind[:, None],
        token_valid=torch.where(wordless[:, None], special, tokens.token_valid),
    )


def without_picture(tokens: Tokens) -> Tokens:
    """The texts alone."""
    return tokens.keep_patches(torch.zeros_like(tokens.patch_valid))


def without_words(tokens: Tokens) -> Tokens:
    """The pictures alone; ``[CLS]`` and ``[SEP]`` stay."""
    return tokens.keep_tokens(special_tokens(tokens))


def jitter(tokens: Tokens, strength: float, generator: torch.Generator) -> Tokens:
    """Multiply brightness, contrast and saturation of each sample by factors from ``1 - strength`` to
    ``1 + strength``. Contrast is about the mean grey of the patches that the sample has."""
    if strength == 0 or not tokens.patches.shape[1] or tokens.are_states:
        return tokens
    factors = 1 + strength * (2 * torch.rand((len(tokens), 3), generator=generator) - 1)
    brightness, contrast, saturation = factors.to(tokens.patches.device)[:, :, None, None, None, None].unbind(1)
    pixels = tokens.patches.float() * brightness
    grey = (pixels * torch.tensor(_LUMA, device=pixels.device)).sum(-1, keepdim=True)
    valid = tokens.patch_valid[:, :, None, None, None]
    count = tokens.patch_valid.sum(1).clamp(min=1)[:, None, None, None, None] * tokens.patch_px**2
    mean = (grey * valid).sum((1, 2, 3, 4), keepdim=True) / count
    pixels = grey + saturation * (pixels - grey)
    pixels = mean + contrast * (pixels - mean)
    # Clamped before it is uint8, which takes a bound of -1 for 255 in torch 2.14.1 (findings/torch_byte_compared.sh).
    return replace(tokens, patches=pixels.round().clamp(0, 255).to(torch.uint8))


def fill(masked: Tokens, new: Tokens, generator: torch.Generator) -> Tokens:
    """Put patches of new pictures where masked samples have none. Places that the picture does not have either stay
    dropped.

    Where the picture's grid is another one, each place takes the patch that is nearest to it when both pictures are
    laid on top of each other.

    Args:
        masked: samples with some patches each.
        new: full samples of the same patch size, patches in row-major order; one is drawn for each masked sample.

    Raises:
        ValueError: the patch sizes differ.
    """
    if not len(masked):
        return masked
    if new.patch_px != masked.patch_px:
        raise ValueError("filling needs donors of the same patch size")
    chosen = torch.randint(len(new), (len(masked),), generator=generator).to(masked.patches.device)
    own, own_valid = to_canvas(masked)
    places = torch.arange(own.shape[1], device=own.device).expand(len(masked), -1)
    under = _under(places, masked.grid, new.grid[chosen])
    donors, there = (_taken(values[chosen], under, own.shape[1]) for values in (new.patches, new.patch_valid))
    inside = places < masked.grid.prod(1, keepdim=True)
    patches = torch.where(own_valid[:, :, None, None, None], own, donors)
    valid = (own_valid | there) & inside
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
