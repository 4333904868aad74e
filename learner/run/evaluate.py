"""Accuracy on the classes seen, and the figures that continual learning reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from learner.model.attention_masks import MaskConfig, compute_masks
from learner.model.classifier import Classifier
from learner.model.tokenised import Samples
from learner.model.tokens import Tokens
from learner.training.augment import without_picture, without_words

MODALITIES: dict[str, Callable[[Tokens], Tokens]] = {"picture": without_words, "text": without_picture}
"""What a model is shown of a sample to see what it knows from one modality alone."""


@torch.no_grad()
def correct(
    model: Classifier,
    split: Samples,
    batch_size: int = 128,
    show: Callable[[Tokens], Tokens] = lambda tokens: tokens,
    masked: MaskConfig | None = None,
    generator: torch.Generator | None = None,
) -> NDArray[np.bool_]:
    """``(N,)`` bool: which samples the model names rightly among all classes it has seen.

    Args:
        show: what it sees of them, as in :data:`MODALITIES`.
        masked: it is asked twice, the second time about the view that such masks leave, and the scores are added. A
            model that has trained on masked exemplars knows old classes by such views.
        generator: for random masks.
    """
    parts = []
    for part in split.batches(batch_size):
        tokens = show(part.tokens)
        scores = model.scores(tokens) if masked is None else _of_two_views(model, tokens, masked, generator)
        parts.append((scores.argmax(1) == model.targets(part.class_ids).cpu()).numpy())
    return np.concatenate(parts)


def _of_two_views(
    model: Classifier, tokens: Tokens, masked: MaskConfig, generator: torch.Generator | None
) -> torch.Tensor:
    """Scores ``(B, C)`` of whole samples plus those of their masked views, on the CPU."""
    total = torch.zeros((len(tokens), len(model.classes_seen)))
    for rows, batch, features, read in model.read(tokens, masked):
        masks = compute_masks(read, batch, masked, generator)
        view = batch.keep_patches(masks.keep_patches).keep_tokens(masks.keep_tokens)
        total[rows] = (model.head(features) + model.logits(view)).cpu()
    return total


def accuracy_by_phase(
    hits: NDArray[np.bool_], class_ids: NDArray[np.int64], phases: Sequence[Sequence[int]]
) -> list[float]:
    """Accuracy on the classes of each phase seen so far."""
    return [float(hits[np.isin(class_ids, classes)].mean()) for classes in phases]


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over the earlier phases' classes of how far the last accuracy lies below the best there was before
    (Chaudhry et al., ECCV 2018, equation 2).

    Args:
        matrix: ``matrix[l][j]``: accuracy on the classes of phase j after phase l; row l has l + 1 entries.
    """
    last = len(matrix) - 1
    if last < 1:
        return 0.0
    drops = [max(matrix[seen][j] for seen in range(j, last)) - matrix[last][j] for j in range(last)]
    return float(np.mean(drops))
