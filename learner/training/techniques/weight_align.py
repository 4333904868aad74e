"""Weight aligning: new classes' weight vectors grow longer than old ones' in training, and win by their length alone.

Zhao et al., CVPR 2020 (WA), equation 5: after a phase the new weights are multiplied by the ratio of the mean lengths.
"""

from __future__ import annotations

import torch

from learner.model.head import GrowingHead


@torch.no_grad()
def align_weights(head: GrowingHead, num_old: int) -> float:
    """Rescale the weights of all classes after the first ``num_old``; returns the factor.

    Raises:
        ValueError: the head is not linear, or there are no old or no new classes.
    """
    if head.kind != "linear" or not 0 < num_old < head.num_classes:
        raise ValueError(
            f"aligning needs a linear head with old and new classes; this is {head.kind} with {num_old} old of "
            f"{head.num_classes}"
        )
    lengths = head.weight.norm(dim=1)
    factor = float(lengths[:num_old].mean() / lengths[num_old:].mean().clamp(min=1e-12))
    head.weight[num_old:] *= factor
    return factor
