"""Orders of preference among a class's samples. Selection orders; the memory truncates to what fits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Selection = Literal["cosine", "herding", "herding-mean", "herding-test", "typical", "random"]

FloatArray = NDArray[np.floating]


def cosine_scores(features: FloatArray, mean: FloatArray) -> NDArray[np.float64]:
    """Cosine of each masked sample's feature ``(N, D)`` to the class mean ``(D,)`` of the full samples."""
    norms = np.linalg.norm(features, axis=1) * np.linalg.norm(mean)
    return np.asarray((features @ mean) / np.maximum(norms, 1e-12), dtype=np.float64)


def selection_order(
    features: FloatArray, full: FloatArray, selection: Selection, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices ``(N,)`` of one class's samples, first to keep first.

    Args:
        features: ``(N, D)`` features of the samples as they are stored.
        full: ``(M, D)`` features of the class's full samples.
        selection: ``cosine``: by similarity to the mean of ``full`` (the paper). ``herding``: greedily, so that the
            mean of each prefix's unit features stays close to that mean scaled to unit length (Rebuffi et al., iCaRL,
            algorithm 4, whose own prefix means are scaled too). ``herding-mean``: the same towards the mean of
            ``full``'s unit features as it is, as PyCIL has it: of weakly clustered classes the prefixes' means come
            nearer to the class's. ``herding-test``: the same, where ``full`` are what the class is tested on, which
            no learner may know: an oracle. ``typical``: :func:`typical_order`. ``random``.
        rng: for ``random`` and ``typical``.
    """
    mean = full.mean(0)
    if selection == "cosine":
        return np.argsort(-cosine_scores(features, mean), kind="stable").astype(np.int64)
    if selection == "random":
        return rng.permutation(len(features)).astype(np.int64)
    unit = _unit(features)
    if selection == "typical":
        return typical_order(unit, rng)
    return _herding_order(unit, _unit(mean[None])[0] if selection == "herding" else _unit(full).mean(0))


def _unit(features: FloatArray) -> FloatArray:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))


def _herding_order(unit: FloatArray, target: FloatArray) -> NDArray[np.int64]:
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


NEIGHBOURS = 20
"""By which a sample is typical: the mean distance to so many of its cluster."""


def typical_order(unit: FloatArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """The most typical samples first, each from a part of the class that has none yet.

    After TEAL (Shaul-Ariel and Weinshall, arXiv 2407.00673), which is for one to three exemplars a class: k-means finds
    1, 2, 4, ... clusters, and of those without a chosen sample, the largest first, the one is chosen whose mean
    distance to its :data:`NEIGHBOURS` nearest is smallest. TEAL knows how many it is to choose and grows the clusters
    at a pace of its own; here every prefix has to do.

    Args:
        unit: ``(N, D)`` features of unit length.
        rng: where the clusters begin.
    """
    from scipy.spatial.distance import cdist  # as kmeans2 below, what no other way of choosing needs

    distances = cdist(unit, unit)
    order: list[int] = []
    clusters = 1
    while len(order) < len(unit):
        for members in _uncovered(unit, min(clusters, len(unit)), order, rng):
            near = np.sort(distances[np.ix_(members, members)], axis=1)[:, 1 : NEIGHBOURS + 1]
            order.append(int(members[near.sum(1).argmin()]))
        clusters *= 2
    return np.asarray(order, dtype=np.int64)


def _uncovered(unit: FloatArray, clusters: int, chosen: list[int], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Members of each cluster that holds no chosen sample, the largest first."""
    from scipy.cluster.vq import kmeans2  # what no other way of choosing needs

    # Without NaN, of which numpy 2.4.6 would make a row each time (findings/numpy_unique_rows_nan.sh).
    different, labels = np.unique(unit, axis=0, return_inverse=True)
    if clusters == len(unit):
        labels = np.arange(clusters)
    elif clusters < len(different):  # scipy 1.17 looks for a farther point where there is none, and divides by 0
        with warnings.catch_warnings():
            # That a cluster came out empty, as it does where samples are equal.
            warnings.simplefilter("ignore", UserWarning)
            _, labels = kmeans2(unit, clusters, minit="++", rng=rng)
    covered = set(labels[chosen].tolist())
    parts = [np.flatnonzero(labels == label) for label in np.unique(labels).tolist() if label not in covered]
    return sorted(parts, key=len, reverse=True)


def ranked(
    features: FloatArray, full: FloatArray, selection: Selection, rng: np.random.Generator
) -> Iterator[tuple[int, float]]:
    """Of each of a class's samples, first to keep first: which one it is, and its cosine to the mean of the full
    samples. Arguments as :func:`selection_order` has them."""
    scores = cosine_scores(features, full.mean(0))
    for place in selection_order(features, full, selection, rng).tolist():
        yield place, float(scores[place])
