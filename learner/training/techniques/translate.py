"""What storing does to features, undone.

The feature of a masked exemplar is not that of the whole picture, and the test asks about whole pictures. Of the new
samples both are known at the end of a phase: ridge regression from one to the other tells what the whole pictures of
old exemplars would give. Features of one model are carried over to another's like this, learnt from new data, by Iscen
et al., "Memory-Efficient Incremental Learning Through Feature Adaptation", ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTH = 0.003
"""Of the ridge, a sample."""


@dataclass(frozen=True)
class Translation:
    """Features ``(N, D)`` of what is stored -> those of the samples that it was made from, both of unit length.

    Attributes:
        center: ``(D,)``, mean of the stored ones' features.
        shift: ``(D,)``, what is added to all.
        weight: ``(D, D)``, what is added by what a feature has beyond the mean.
    """

    center: Tensor
    shift: Tensor
    weight: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        unit = F.normalize(features, dim=1)
        return F.normalize(unit + self.shift + (unit - self.center) @ self.weight, dim=1)


def fit_translation(stored: Tensor, full: Tensor, strength: float = STRENGTH) -> Translation:
    """Fit it to pairs.

    Args:
        stored: ``(N, D)`` features of samples as they are stored.
        full: ``(N, D)`` features of the same samples before that.

    Raises:
        ValueError: there are no pairs, or the two do not match.
    """
    if not len(stored) or stored.shape != full.shape:
        raise ValueError(
            f"a translation is fitted to features of the same samples, at least one: got shapes {tuple(stored.shape)} "
            f"and {tuple(full.shape)}"
        )
    unit = F.normalize(stored, dim=1)
    gap = F.normalize(full, dim=1) - unit
    center, shift = unit.mean(0), gap.mean(0)
    centered = unit - center
    ridge = len(unit) * strength * torch.eye(unit.shape[1], device=unit.device)
    weight = torch.linalg.solve(centered.T @ centered + ridge, centered.T @ (gap - shift))
    return Translation(center, shift, weight)
