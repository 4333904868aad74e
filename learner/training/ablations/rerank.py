"""Re-ranking: what a buffer holds is put into the order that the model would choose now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

from client import Buffer
from memory_format import Record


def rerank(
    buffer: Buffer,
    features_of: Callable[[Sequence[Record]], Tensor],
    ranked: Callable[..., Iterable[tuple[int, float]]],
) -> int:
    """Put what a buffer holds of each class into a new order.

    The class mean is that of the exemplars held: the full samples are gone. Doing it again changes nothing.

    Args:
        features_of: features ``(N, D)`` of exemplars, by the model as it is.
        ranked: from a class's features ``(N, D)`` and their mean ``(D,)`` to places and scores, first to keep first.

    Returns:
        How many exemplars have another rank than before.
    """
    records = sorted(buffer.records(), key=lambda record: (record.class_id, record.exemplar_id))
    if not records:
        return 0
    features = features_of(records).numpy()
    class_ids = np.array([record.class_id for record in records])
    changed: dict[int, tuple[int, float]] = {}
    for class_id in np.unique(class_ids):
        members = np.flatnonzero(class_ids == class_id)
        of_class = features[members]
        for rank, (place, score) in enumerate(ranked(of_class, of_class.mean(0))):
            record = records[members[place]]
            if record.rank != rank:
                changed[record.exemplar_id] = (rank, score)
    if changed:
        ranks, scores = zip(*changed.values(), strict=True)
        buffer.update_scores(list(changed), scores, ranks)
    return len(changed)
