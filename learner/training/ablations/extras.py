"""What ablations add to the training of a phase: one value, asked at each place where one of them has a say."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.model.classifier import Classifier
from learner.model.tokens import Tokens
from learner.training.ablations.balance import log_shares
from learner.training.ablations.distill import distillation_loss
from learner.training.ablations.fill_from import fill_from
from learner.training.ablations.flip import flip
from learner.training.ablations.settings import AblationConfig
from learner.training.ablations.stored_logits import stored_logits_loss


@dataclass(frozen=True)
class Extras:
    """The ablations of one phase; by default none is on.

    Attributes:
        teacher: the model before the phase, for ``config.distill``.
    """

    config: AblationConfig = field(default_factory=AblationConfig)
    teacher: Classifier | None = None

    @staticmethod
    def before(model: Classifier, config: AblationConfig) -> Extras:
        """Those of the phase that a model is about to learn."""
        return Extras(config, copy.deepcopy(model).eval() if config.distill else None)

    def view(self, tokens: Tokens, generator: torch.Generator) -> Tokens:
        """Samples as they are shown."""
        return flip(tokens, self.config.flip, generator)

    def fill(self, masked: Tokens, new: Tokens, new_background: Tensor, generator: torch.Generator) -> Tokens:
        """Masked samples with their dropped places filled; see :mod:`learner.training.ablations.fill_from`."""
        return fill_from(self.config.fill_from, masked, new, new_background, generator)

    def raised(self, classes_seen: Sequence[int], new_class_ids: NDArray[np.int64], *, replayed: bool) -> Tensor:
        """``(C,)``, what is added to the logits in the cross-entropy."""
        if not self.config.balance:
            return torch.zeros(len(classes_seen))
        return self.config.balance * log_shares(classes_seen, new_class_ids, replayed=replayed)

    def losses(self, logits: Tensor, tokens: Tokens, stored: Tensor | None) -> Iterator[Tensor]:
        """Terms of the loss, summed over the samples.

        Args:
            logits: ``(B, C)`` of the model in training for ``tokens``.
            stored: ``(B, C_then)`` as they were when the samples were stored, NaN where there are none.
        """
        if self.teacher is not None:
            with torch.no_grad():
                said = self.teacher.logits(tokens)
            yield self.config.distill * distillation_loss(logits, said)
        if self.config.stored_logits and stored is not None:
            yield self.config.stored_logits * stored_logits_loss(logits, stored.to(logits.device))
