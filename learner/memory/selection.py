"""Orders of preference among a class's samples. Selection orders; the memory truncates to what fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Selection = Literal["cosine", "herding", "random"]

FloatArray = NDArray[np.floating]


def cosine_scores(features: FloatArray, mean: FloatArray) -> NDArray[np.float64]:
    """Cosine of each masked sample's feature ``(N, D)`` to the class mean ``(D,)`` of the full samples."""
    norms = np.linalg.norm(features, axis=1) * np.linalg.norm(mean)
    return np.asarray((features @ mean) / np.maximum(norms, 1e-12), dtype=np.float64)


def selection_order(
    features: FloatArray, mean: FloatArray, selection: Selection, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices ``(N,)`` of one class's samples, first to keep first.

    Args:
        features: ``(N, D)`` features of the masked samples.
        mean: ``(D,)`` mean feature of the full samples.
        selection: ``cosine``: by similarity to the mean (the paper); ``herding``: greedily, so that the mean of each
            prefix stays close to ``mean`` (Rebuffi et al., iCaRL, algorithm 4), which avoids near-duplicates;
            ``random``.
        rng: for ``random``.
    """
    if selection == "cosine":
        return np.argsort(-cosine_scores(features, mean), kind="stable").astype(np.int64)
    if selection == "random":
        return rng.permutation(len(features)).astype(np.int64)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    target = mean / max(float(np.linalg.norm(mean)), 1e-12)
    order: list[int] = []
    total = np.zeros_like(target)
    free = np.ones(len(unit), dtype=bool)
    for count in range(1, len(unit) + 1):
        distance = np.linalg.norm(target - (total + unit) / count, axis=1)
        distance[~free] = np.inf
        best = int(distance.argmin())
        order.append(best)
        free[best] = False
        total = total + unit[best]
    return np.asarray(order, dtype=np.int64)


def ranked(
    features: FloatArray, mean: FloatArray, selection: Selection, rng: np.random.Generator
) -> Iterator[tuple[int, float]]:
    """Of each of a class's samples, first to keep first: which one it is, and its cosine to the mean."""
    scores = cosine_scores(features, mean)
    for place in selection_order(features, mean, selection, rng).tolist():
        yield place, float(scores[place])
