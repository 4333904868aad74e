"""Image and text masks from attention (paper, method section).

Image: keep the patches whose attention from the class token is above tau_I. Text: keep the tokens whose attention
from the *discarded* patches is above tau_T, so that the text carries the context that the picture lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from learner.model.tokens import Tokens, special_tokens
from learner.ranges import within

Threshold = Literal["mean", "quantile", "mass"]
Layers = Literal["last", "mean"]
HeadReduction = Literal["mean", "max"]
Choice = Literal["attention", "random", "grid", "object"]


@dataclass(frozen=True)
class AttentionRead:
    """Attention probabilities, per head.

    Attributes:
        class_to_image: ``(B, H, K)``, the class token's row at the patches.
        image_to_text: ``(B, H, K, T)``, each patch's row at the text tokens; None where it was not asked for.
        patch_norms: ``(B, K)``, lengths of the patches' last hidden states.
    """

    class_to_image: Tensor
    image_to_text: Tensor | None
    patch_norms: Tensor


@dataclass(frozen=True)
class MaskConfig:
    """How attention becomes masks. The thresholds' defaults are the paper's, as far as it says;
    which attention is read is chosen by measurement (docs/decisions/0012).

    Attributes:
        image: mask the image at all.
        text: mask the text at all.
        layers: which layers' attention is read: the ``last``, or the ``mean`` of several.
        last_layers: over how many of the last layers ``mean`` goes.
        heads: how the heads of a layer are combined: ``max``, that of the head that looks hardest, or ``mean``.
        image_threshold: which patches are kept. ``mean``: those above the sample's own mean; ``quantile``: the top
            ``image_amount`` share; ``mass``: the fewest that hold ``image_amount`` of the attention.
        image_amount: for ``quantile`` and ``mass``.
        text_threshold: the same of words, with ``text_amount``.
        text_amount: for ``quantile`` and ``mass`` of words.
        drop_sinks: leave out patches whose last hidden state is an outlier in length: "registers" that gather
            attention whatever the picture shows there (Darcet et al., ICLR 2024).
        choice: what the kept patches are chosen by. ``attention``; ``random``: as many as attention would keep, drawn
            at random, the control; ``grid``: the same places in every picture, an ``image_amount`` share of them spread
            evenly (:func:`grid_places`), which asks no model; ``object``: as attention, by what of each patch the
            object covers, which only the data set knows: an oracle.
    """

    image: bool = True
    text: bool = True
    layers: Layers = "last"
    last_layers: int = 4
    heads: HeadReduction = "max"
    image_threshold: Threshold = "mean"
    image_amount: float = 0.4
    text_threshold: Threshold = "mean"
    text_amount: float = 0.4
    drop_sinks: bool = True
    choice: Choice = "attention"

    def __post_init__(self) -> None:
        within(self, 0.001, 1, "image_amount", "text_amount")
        within(self, 1, 1024, "last_layers")


@dataclass(frozen=True)
class Masks:
    """Masks of a batch.

    Attributes:
        keep_patches: ``(B, K)`` bool.
        keep_tokens: ``(B, T)`` bool.
        patch_attention: ``(B, K)``, the class token's attention, heads combined.
    """

    keep_patches: Tensor
    keep_tokens: Tensor
    patch_attention: Tensor


def compute_masks(
    read: AttentionRead,
    tokens: Tokens,
    config: MaskConfig,
    generator: torch.Generator | None = None,
    object_shares: Tensor | None = None,
) -> Masks:
    """Masks of a batch of full samples. At least one patch of each sample is kept; so are ``[CLS]`` and ``[SEP]``.

    Args:
        generator: of random patches.
        object_shares: ``(B, K)``, what of each patch the object covers.

    Raises:
        ValueError: random patches without a generator, patches of objects that nobody knows, or ``config.text`` without
            the attention for it.
    """
    attention = _combine(read.class_to_image, config.heads).masked_fill(~tokens.patch_valid, 0.0)
    keep_patches = tokens.patch_valid
    if config.image and config.choice == "grid":
        keep_patches = grid_places(tokens, config.image_amount)
    elif config.image and config.choice == "object":
        if object_shares is None:
            raise ValueError("the data set does not say where objects are, which masks by object need: MM-Emoji-R does")
        keep_patches = _above(object_shares, tokens.patch_valid, config.image_threshold, config.image_amount)
    elif config.image:
        candidates = tokens.patch_valid
        if config.drop_sinks:
            candidates = candidates & ~sink_patches(read.patch_norms, tokens.patch_valid)
        attended = attention.masked_fill(~candidates, 0.0)
        keep_patches = _above(attended, candidates, config.image_threshold, config.image_amount)
        if config.choice == "random":
            if generator is None:
                raise ValueError("random masks need a generator")
            noise = torch.rand(attention.shape, generator=generator).to(attention.device)
            keep_patches = _top(noise, tokens.patch_valid, keep_patches.sum(1))
    keep_tokens = tokens.token_valid
    if config.text:
        if read.image_to_text is None:
            raise ValueError("the text mask needs the patches' attention to the text: read it with text=True")
        keep_tokens = _text_mask(read.image_to_text, tokens, keep_patches, config)
    return Masks(keep_patches, keep_tokens, attention)


PLASTIC = 1.32471795724474602596
"""The real root of x^3 = x + 1: steps of its inverse powers spread points over the plane most evenly (Roberts, "The
unreasonable effectiveness of quasirandom sequences", 2018)."""


def grid_places(tokens: Tokens, amount: float) -> Tensor:
    """``(B, K)`` bool: about an ``amount`` share of each sample's places, evenly spread, the first one among them."""
    width = tokens.grid[:, 1:].clamp(min=1)
    row, column = tokens.patch_positions // width, tokens.patch_positions % width
    return ((row / PLASTIC + column / PLASTIC**2) % 1 < amount) & tokens.patch_valid


SINK_DEVIATIONS = 6.0
"""How many median absolute deviations above the median a sink's length lies."""


def sink_patches(norms: Tensor, valid: Tensor) -> Tensor:
    """``(B, K)`` bool: patches whose length is an outlier among the sample's; never more than half of them."""
    lengths = norms.masked_fill(~valid, torch.nan)
    median = lengths.nanmedian(1, keepdim=True).values
    deviation = (lengths - median).abs().nanmedian(1, keepdim=True).values
    return (lengths > median + SINK_DEVIATIONS * deviation.clamp(min=1e-6)) & valid


def _text_mask(image_to_text: Tensor, tokens: Tokens, keep_patches: Tensor, config: MaskConfig) -> Tensor:
    discarded = (tokens.patch_valid & ~keep_patches).float()
    rows = _combine(image_to_text, config.heads)
    attention = (rows * discarded[:, :, None]).sum(1)
    special = special_tokens(tokens)
    # [CLS] and [SEP] stay in any case and draw much attention; in the mean they would crowd out the words.
    words = tokens.token_valid & ~special
    keep = _above(attention.masked_fill(~words, 0.0), words, config.text_threshold, config.text_amount)
    # Nothing was discarded: the text has nothing to stand in for, and no attention to judge it by.
    keep = keep | (words & (discarded.sum(1, keepdim=True) == 0))
    return keep | special


def _combine(probabilities: Tensor, heads: HeadReduction) -> Tensor:
    return probabilities.mean(1) if heads == "mean" else probabilities.amax(1)


def _above(attention: Tensor, valid: Tensor, threshold: Threshold, amount: float) -> Tensor:
    """``(B, N)`` bool: which tokens are above the threshold; of those valid at least one."""
    count = valid.sum(1)
    if threshold == "mean":
        mean = attention.sum(1) / count.clamp(min=1)
        keep = (attention > mean[:, None]) & valid
        # All tokens equal: none is above the mean.
        return keep | _top(attention, valid, (~keep.any(1)).long())
    if threshold == "quantile":
        return _top(attention, valid, (count * amount).round().long().clamp(min=1))
    ordered = attention.sort(dim=1, descending=True).values
    share = ordered.cumsum(1) / ordered.sum(1, keepdim=True).clamp(min=1e-12)
    return _top(attention, valid, (share < amount - 1e-6).sum(1) + 1)


def _top(scores: Tensor, valid: Tensor, number: Tensor) -> Tensor:
    """``(B, N)`` bool: the ``number`` ``(B,)`` valid tokens with the highest scores."""
    rank = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < number[:, None]) & valid
