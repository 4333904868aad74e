"""Augmentation of token batches: views of new data and of replayed exemplars. All randomness is passed in."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learner.model.tokens import Tokens, special_tokens


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
