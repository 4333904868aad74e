"""The classifier that is tested: one fitted to what is there of all classes, in place of training's own head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learner.memory.exemplars import exemplar_features
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.training.techniques.refit import fit_ridge
from learner.training.techniques.translate import Translation
from memory_format import Record

Known = tuple[Tensor, NDArray[np.int64]]
"""Features ``(N, F)`` and class ids ``(N,)`` of samples of all classes seen."""


def of_split(model: Classifier, split: TokenisedSplit) -> Known:
    """What a method knows that keeps all data."""
    return model.features(split.tokens), split.class_ids


def of_exemplars(model: Classifier, records: Sequence[Record], translation: Translation | None) -> Known:
    """What a method knows by its exemplars.

    Args:
        translation: from their features to those of the samples that they were made from.
    """
    features = exemplar_features(model, records)
    if translation is not None:
        features = translation(features)
    return features, np.array([record.class_id for record in records])


@contextlib.contextmanager
def fitted_head(model: Classifier, known: Known | None) -> Iterator[None]:
    """A model with the fitted classifier for as long as the block lasts; with its own where nothing is known."""
    if known is None:
        yield
        return
    trained = model.head
    features, class_ids = known
    try:
        # No growing head, but to be tested is all it is for.
        model.head = fit_ridge(  # type: ignore[assignment]
            features.to(model.device), model.targets(class_ids), trained.num_classes
        )
        yield
    finally:
        model.head = trained
