"""Two views at the test: a sample's scores and those of its masked view are added.

A model that has trained on masked exemplars knows old classes by such views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.model.attention_masks import MaskConfig, compute_masks
from learner.model.classifier import Classifier
from learner.model.tokens import Tokens


@torch.no_grad()
def two_view_scores(
    model: Classifier, tokens: Tokens, mask: MaskConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Scores ``(B, C)`` of whole samples plus those of their masked views, on the CPU.

    Args:
        generator: for random masks.
    """
    total = torch.zeros((len(tokens), len(model.classes_seen)))
    for rows, batch, features, read in model.read(tokens, mask):
        masks = compute_masks(read, batch, mask, generator)
        view = batch.keep_patches(masks.keep_patches).keep_tokens(masks.keep_tokens)
        total[rows] = (model.head(features) + model.logits(view)).cpu()
    return total
