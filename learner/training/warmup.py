"""A short vision-language warm-up before the base phase: blocks of an image model learn to read text.

ViLT's own objectives (Kim et al., ICML 2021), on the base phase's samples: image-text matching, whether picture and
text belong together, and masked language modelling, which word stood there. Both modalities are dropped now and then,
so that words are also told from words, and pictures need not lean on a text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.data.base import DataError
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens, special_tokens
from learner.training import augment
from learner.training.loop import fit
from learner.training.settings import WarmupConfig

IGNORED = -100
"""Target of a token that is not asked for: what PyTorch's cross-entropy leaves out."""


class WarmupHeads(nn.Module):
    """What only the warm-up needs: is it a match, and which word was it.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.match = nn.Linear(dim, 2)
        self.word = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))

    def words(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Logits ``(M, V)`` of words from the hidden states ``(M, D)`` at their places.

        Against the input embeddings ``(V, D)``, of unit length each: their own lengths tell of a word's frequency in
        the text that they were trained on.
        """
        return 16.0 * F.linear(F.normalize(self.word(hidden), dim=1), F.normalize(embeddings, dim=1))


def warm_up(
    model: Classifier, split: TokenisedSplit, config: WarmupConfig, generator: torch.Generator, progress: str = ""
) -> None:
    """Tune the whole backbone on the two objectives; the text's projection and layer norm at a higher rate.

    Args:
        split: the base phase's data; its classes are not looked at.

    Raises:
        DataError: there are fewer than two samples, so that no text can be swapped.
    """
    if len(split) < 2:
        raise DataError("a warm-up needs at least two samples in the first phase; turn it off with warmup.epochs=0")
    backbone, device = model.backbone, model.device
    heads = WarmupHeads(backbone.dim).to(device)
    text = {id(parameter) for parameter in backbone.text_parameters()}
    rest = [p for p in backbone.parameters() if p.requires_grad and id(p) not in text]
    groups: list[dict[str, Any]] = [
        {"params": rest, "lr": config.lr},
        {"params": list(backbone.text_parameters()), "lr": config.lr * config.text_lr_factor},
        {"params": list(heads.parameters()), "lr": config.head_lr},
    ]
    model.train()
    fit(
        groups,
        lambda index: _loss(model, heads, split.tokens[index], config, generator),
        num_samples=len(split),
        epochs=config.epochs,
        batch_size=config.batch_size,
        weight_decay=0.05,
        clipped=[parameter for group in groups for parameter in group["params"]],
        clip_norm=1.0,
        generator=generator,
        progress=progress,
    )


def _loss(
    model: Classifier, heads: WarmupHeads, tokens: Tokens, config: WarmupConfig, generator: torch.Generator
) -> Tensor:
    """Matching over the batch, half of it with another sample's text, plus masked words where they match."""
    # The last batch of an epoch may be of one: it keeps its text.
    mismatched = (torch.rand(len(tokens), generator=generator) < 0.5) & (len(tokens) > 1)
    tokens = swap_texts(tokens, mismatched)
    shown, targets = mask_words(tokens, config.word_mask, config.mask_token_id, generator)
    # Of a pair that does not match, the words say nothing about the picture.
    targets = targets.masked_fill(mismatched[:, None], IGNORED)
    # Without one of the two there is nothing to match: such samples are asked for their words, if for anything.
    dropped = augment.drop_modality(shown, config.modality_drop, generator)
    whole = (dropped.patch_valid == shown.patch_valid).all(1) & (dropped.token_valid == shown.token_valid).all(1)
    targets = targets.masked_fill(~dropped.token_valid, IGNORED)
    device = model.device
    with model.autocast():
        hidden = model.backbone.hidden(dropped.to(device))
    hidden = hidden.float()
    matches = torch.where(whole, (~mismatched).long(), IGNORED).to(device)
    class_state = hidden[:, model.backbone.class_index(dropped)]
    loss = F.cross_entropy(heads.match(class_state), matches, ignore_index=IGNORED, reduction="sum")
    loss = loss / max(1, int(whole.sum()))
    asked = targets.to(device) != IGNORED
    if bool(asked.any()):
        words = hidden[:, : targets.shape[1]][asked]
        logits = heads.words(words, model.backbone.embeddings.text_embeddings.word_embeddings.weight)
        loss = loss + F.cross_entropy(logits, targets.to(device)[asked])
    return loss


def mask_words(
    tokens: Tokens, probability: float, mask_token_id: int, generator: torch.Generator
) -> tuple[Tokens, Tensor]:
    """Put ``[MASK]`` where some words were, never at ``[CLS]`` and ``[SEP]``.

    Returns:
        The tokens, and the words' ids ``(B, T)``, :data:`IGNORED` where nothing was masked.
    """
    words = tokens.token_valid & ~special_tokens(tokens)
    chosen = words & (torch.rand(words.shape, generator=generator) < probability)
    masked = replace(tokens, token_ids=tokens.token_ids.masked_fill(chosen, mask_token_id))
    return masked, tokens.token_ids.masked_fill(~chosen, IGNORED)


def swap_texts(tokens: Tokens, chosen: Tensor) -> Tokens:
    """The samples at ``chosen`` ``(B,)`` with the text of the one before them in the batch."""
    donors = tokens[torch.arange(len(tokens)).roll(1)]
    fields = ("token_ids", "token_positions", "token_valid")
    taken = {name: torch.where(chosen[:, None], getattr(donors, name), getattr(tokens, name)) for name in fields}
    return replace(tokens, **taken)
