"""Other sources for the places that masked exemplars dropped than whole new pictures."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from learner.model.tokens import Tokens
from learner.training.techniques.fill import behind, fill, to_canvas

FillSource = Literal["new", "background", "mean"]
"""``new``: a whole picture of the new phase. ``background``: only those of its patches that its own mask discards, so
that no new object stands in an old class's picture. ``mean``: the mean colour of what the exemplar itself kept."""


def fill_from(
    source: FillSource, masked: Tokens, new: Tokens, new_background: Tensor, generator: torch.Generator
) -> Tokens:
    """Masked samples with their dropped places filled; arguments as :func:`~learner.training.techniques.fill.fill` has
    them.

    Args:
        new_background: ``(N, K)`` bool, the patches of ``new`` that are background.
    """
    if source == "mean":
        return fill_with_mean(masked)
    return fill(masked, new, generator, allowed=new_background if source == "background" else None)


def fill_with_mean(masked: Tokens) -> Tokens:
    """Each dropped place is of one flat colour: the mean of all pixels that the sample has."""
    if not len(masked):
        return masked
    own, own_valid = to_canvas(masked)
    mean = own.float().sum(1, keepdim=True) / own_valid.sum(1)[:, None, None, None, None].clamp(min=1)
    colour = mean.mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(own)
    return behind(masked, colour, torch.ones_like(own_valid))
