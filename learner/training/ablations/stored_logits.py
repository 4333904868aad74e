"""Dark experience replay: exemplars carry the logits that the model had for them when they were stored.

Buzzega et al., NeurIPS 2020 (DER++: cross-entropy and the distance of the logits together). The logits are a float16
array in the record, so the memory charges two bytes a class, and some fifty for the array's name and shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


def joined(parts: Sequence[Tensor | None], lengths: Sequence[int]) -> Tensor | None:
    """The stored logits ``(B, C)`` of a step's samples from those of its views, NaN where there are none.

    Args:
        parts: ``(B_view, C_then)`` of each view; None: its samples have none.
        lengths: samples of each view.

    Returns:
        None where no view has any.
    """
    known = [part for part in parts if part is not None]
    if not known:
        return None
    width = max(part.shape[1] for part in known)
    whole = [torch.zeros((n, 0)) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=torch.nan) for part in whole])
