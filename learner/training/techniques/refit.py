"""A classifier for the test, fitted to the exemplars alone.

The head that training leaves prefers the new classes, of which it saw more and other samples. The memory holds as much
of every class: ridge regression from its exemplars' features to their classes has no such preference, and a solution in
closed form. In the place of iCaRL's nearest mean of exemplars (Rebuffi et al., CVPR 2017), which also looks at nothing
but the memory; as a last step that restores balance, as in EEIL (Castro et al., ECCV 2018). Training goes on with its
own head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRENGTH = 0.2
"""Of the ridge, against features of unit length whose second moments are summed over the exemplars: the more of them
there are, the less it weighs."""


class RidgeHead(nn.Module):
    """Features ``(B, D)`` -> scores ``(B, C)`` in place of :class:`~learner.model.head.GrowingHead`.

    Args:
        weight: ``(D, C)``.
        center: ``(D,)`` taken from the features once they have unit length.
    """

    weight: Tensor
    center: Tensor

    def __init__(self, weight: Tensor, center: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("center", center)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = (F.normalize(features, dim=1) - self.center) @ self.weight
        return scores


def fit_ridge(features: Tensor, targets: Tensor, num_classes: int, strength: float = STRENGTH) -> RidgeHead:
    """Fit it to exemplars; all classes weigh the same, whichever of them have more.

    Args:
        features: ``(N, D)``, of any length.
        targets: ``(N,)`` head indices.

    Raises:
        ValueError: there is no exemplar.
    """
    if not len(features):
        raise ValueError("no exemplars to fit a classifier to")
    counts = torch.bincount(targets, minlength=num_classes).clamp(min=1)
    # 1 where all classes have as many.
    weights = (len(targets) / num_classes / counts)[targets][:, None]
    unit = F.normalize(features, dim=1)
    center = (unit * weights).sum(0) / weights.sum()
    centered = unit - center
    moments = centered.T @ (centered * weights)
    wanted = centered.T @ (F.one_hot(targets, num_classes) * weights)
    ridge = strength * torch.eye(features.shape[1], device=features.device)
    return RidgeHead(torch.linalg.solve(moments + ridge, wanted), center)
