"""An order of preference by coverage: facility location (Mirzasoleiman et al., CRAIG, ICML 2020)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def coverage_order(unit: NDArray[np.floating]) -> NDArray[np.int64]:
    """Indices ``(N,)``, first to keep first: each next one raises the sum over all samples of the cosine to their
    nearest chosen one the most.

    Args:
        unit: ``(N, D)`` features of unit length.
    """
    similarity = unit @ unit.T
    nearest = np.full(len(unit), -1.0)
    free = np.ones(len(unit), dtype=bool)
    order: list[int] = []
    for _ in range(len(unit)):
        gain = np.maximum(similarity - nearest, 0.0).sum(1)
        gain[~free] = -np.inf
        best = int(gain.argmax())
        order.append(best)
        free[best] = False
        nearest = np.maximum(nearest, similarity[best])
    return np.asarray(order, dtype=np.int64)
