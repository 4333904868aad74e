"""Dark experience replay: exemplars carry the logits that the model had for them when they were stored.

Buzzega et al., NeurIPS 2020 (DER++: cross-entropy and the distance of the logits together). The logits are a float16
array in the record, so the memory charges two bytes a class, and some fifty for the array's name and shape.
"""

from __future__ import annotations

from torch import Tensor

ARRAY = "logits"
"""Name of the array in the record."""


def stored_logits_loss(logits: Tensor, stored: Tensor) -> Tensor:
    """Squared distance to the stored logits, mean over the classes known then, summed over the samples.

    Args:
        logits: ``(B, C)``.
        stored: ``(B, C_then)``, C_then <= C, NaN where a sample has none: exemplars of earlier phases know fewer
            classes, new samples none.
    """
    known = ~stored.isnan()
    gap = (logits[:, : stored.shape[1]] - stored.nan_to_num()) * known
    return (gap.square().sum(1) / known.sum(1).clamp(min=1)).sum()
