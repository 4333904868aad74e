"""Knowledge distillation: the model of the previous phase tells what old classes' logits were.

Hinton et al., arXiv 1503.02531; for class-incremental learning as in iCaRL and WA: on new and replayed samples alike,
over the old classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened answer to the student's, summed over the samples.

    Args:
        logits: ``(B, C)`` of the model in training; the first columns are the teacher's classes.
        teacher: ``(B, C_old)``, C_old <= C, without gradient.

    Returns:
        A scalar, times ``temperature`` squared, so that its gradients keep their size at any temperature.
    """
    student = F.log_softmax(logits[:, : teacher.shape[1]] / temperature, dim=1)
    target = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(student, target, reduction="sum", log_target=True) * temperature**2
