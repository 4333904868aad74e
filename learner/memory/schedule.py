"""Replay what is being forgotten: how hard each exemplar is for the model of now becomes its score in the service,
which draws in proportion to it (``score_weighted``).

As in prioritised replay (Schaul et al., ICLR 2016), a loss says what is worth another look. There it is renewed with
every draw; here after every phase, so that the draws of a phase are a function of its steps, as all others are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from client import Buffer
from learner.model.classifier import Classifier
from memory_format import Record


@torch.no_grad()
def hardness(model: Classifier, features: Tensor, class_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """``(N,)``: 1 plus the cross entropy of the model's own head over its mean. So half of all draws go by the loss,
    and what is known by heart keeps half of a uniform share.

    Args:
        features: ``(N, F)`` of exemplars, N at least 1.
        class_ids: ``(N,)``.
    """
    loss = F.cross_entropy(model.head(features.to(model.device)), model.targets(class_ids), reduction="none")
    return np.asarray(1 + (loss / loss.mean().clamp(min=1e-12)).cpu().numpy(), dtype=np.float32)


def give_scores(buffer: Buffer, records: Sequence[Record], scores: NDArray[np.float32]) -> None:
    """Tell the service. Where it knows them, nothing is sent: a run that goes on leaves the version as it is."""
    if not np.array_equal(np.array([record.score for record in records], dtype=np.float32), scores):
        buffer.update_scores([record.exemplar_id for record in records], scores)
