"""Logit adjustment: a step shows many samples of few new classes and few of many old ones; the loss takes that out.

Menon et al., ICLR 2021, equation 10; with strength 1 the balanced softmax of Ren et al., NeurIPS 2020. Each logit is
raised in training by the logarithm of its class's share, and not at test time: what the share alone explains, the
classifier need not learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def log_shares(classes_seen: Sequence[int], new_class_ids: NDArray[np.int64], *, replayed: bool) -> Tensor:
    """``(C,)`` logarithm of each class's share in a phase's steps, in the order of ``classes_seen``.

    Half of a step is new data, as the phase has it; the other half are exemplars of the other classes, balanced. A
    class of which nothing is shown has the share of the rarest: minus infinity would switch it off.

    Args:
        new_class_ids: ``(N,)`` of the phase's data.
        replayed: exemplars are replayed.
    """
    counts = np.array([np.count_nonzero(new_class_ids == class_id) for class_id in classes_seen], dtype=np.float64)
    is_old = counts == 0
    shares = counts / counts.sum()
    if replayed and is_old.any():
        shares = np.where(is_old, 1.0 / is_old.sum(), shares) / 2
    shares[shares == 0] = shares[shares > 0].min()
    return torch.from_numpy(np.log(shares)).float()
