"""Colour jitter: brightness, contrast and saturation, the same for all patches of a sample."""

from __future__ import annotations

from dataclasses import replace

import torch

from learner.model.tokens import Tokens

_LUMA = (0.299, 0.587, 0.114)
"""Grey value of a colour, ITU-R BT.601."""


def jitter(tokens: Tokens, strength: float, generator: torch.Generator) -> Tokens:
    """Multiply brightness, contrast and saturation of each sample by factors from ``1 - strength`` to
    ``1 + strength``. Contrast is about the mean grey of the patches that the sample has."""
    if strength == 0 or not tokens.patches.shape[1]:
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
    return replace(tokens, patches=pixels.round().clamp(0, 255).to(torch.uint8))
