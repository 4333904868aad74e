"""The classifier that is tested: one fitted to what is there of all classes, in place of training's own head.

The head that training leaves prefers the new classes, of which it saw more and other samples. The memory holds as much
of every class: ridge regression from its exemplars' features to their classes has no such preference, and a solution in
closed form. In the place of iCaRL's nearest mean of exemplars (Rebuffi et al., CVPR 2017), which also looks at nothing
but the memory; as a last step that restores balance, as in EEIL (Castro et al., ECCV 2018). Training goes on with its
own head.

The feature of a masked exemplar is not that of the whole picture, and the test asks about whole pictures. Of the new
samples both are known at the end of a phase: ridge regression from one to the other (:class:`Translation`) tells what
the whole pictures of old exemplars would give. Features of one model are carried over to another's like this, learnt
from new data, by Iscen et al., "Memory-Efficient Incremental Learning Through Feature Adaptation", ECCV 2020.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.model.classifier import Classifier

STRENGTH = 0.2
"""Of the ridge, against features of unit length whose second moments are summed over the exemplars: the more of them
there are, the less it weighs."""
TRANSLATION_STRENGTH = 0.003
"""Of the other ridge, a sample."""

Known = tuple[Tensor, NDArray[np.int64]]
"""Features ``(N, F)`` and class ids ``(N,)`` of samples of all classes seen."""


class RidgeHead(nn.Module):
    """Features ``(B, D)`` -> scores ``(B, C)`` in place of :class:`~learner.model.classifier.GrowingHead`.

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


def fit_translation(stored: Tensor, full: Tensor, strength: float = TRANSLATION_STRENGTH) -> Translation:
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
