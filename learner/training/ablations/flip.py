"""Mirroring samples: each patch and its place in the grid move together, and the bitmask with them."""

from __future__ import annotations

from dataclasses import replace

import torch

from learner.model.tokens import Tokens


def flip(tokens: Tokens, probability: float, generator: torch.Generator) -> Tokens:
    """Mirror some samples from left to right. Their patches are no longer in row-major order afterwards."""
    if probability == 0:
        return tokens
    chosen = (torch.rand(len(tokens), generator=generator) < probability).to(tokens.patches.device)
    width = tokens.grid[:, 1:]
    row, column = tokens.patch_positions // width, tokens.patch_positions % width
    # Padding has place 0 and would be moved as well, which nobody sees.
    mirrored = row * width + (width - 1 - column)
    return replace(
        tokens,
        patches=torch.where(chosen[:, None, None, None, None], tokens.patches.flip(3), tokens.patches),
        patch_positions=torch.where(chosen[:, None], mirrored, tokens.patch_positions),
    )
