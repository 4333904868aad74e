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

    Args:
        masked: samples with some patches each.
        donors: full samples of the same grid and patch size; one is drawn for each masked sample.

    Raises:
        ValueError: the grids or patch sizes differ.
    """
    if donors.patch_px != masked.patch_px or not torch.equal(donors.grid[:1].expand_as(masked.grid), masked.grid):
        raise ValueError("filling needs donors of the same grid and patch size")
    chosen = torch.randint(len(donors), (len(masked),), generator=generator).to(donors.patches.device)
    # Donor patches lie in row-major order, so a patch's place is its index; padding goes to a place past the end.
    background = donors[chosen]
    count = background.patches.shape[1]
    place = masked.patch_positions.masked_fill(~masked.patch_valid, count)
    canvas = torch.cat([background.patches, torch.zeros_like(background.patches[:, :1])], dim=1)
    index = place[:, :, None, None, None].expand_as(masked.patches)
    canvas = canvas.scatter(1, index, masked.patches)[:, :count]
    return replace(
        masked,
        patches=canvas,
        patch_positions=background.patch_positions,
        patch_valid=background.patch_valid,
    )
