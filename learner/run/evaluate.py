"""Accuracy on the classes seen, and the figures that continual learning reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.model.classifier import Classifier
from learner.model.tokenised import Samples
from learner.model.tokens import Tokens
from learner.run.problem import Problem
from learner.training.augment import without_picture, without_words

MODALITIES: dict[str, Callable[[Tokens], Tokens]] = {"picture": without_words, "text": without_picture}
"""What a model is shown of a sample to see what it knows from one modality alone."""


@dataclass(frozen=True)
class PhaseMetrics:
    """One line of ``metrics.jsonl``. Accuracies are shares in [0, 1]; ``old`` is None in phase 0.

    ``others``: accuracy on the classes of the data that only other learners of a shared buffer have brought; None where
    there are none. ``by_phase[j]``: accuracy on the classes of phase j. ``by_modality``: with both, the picture alone
    and the text alone, after the last phase of a method that starts from the shared base phase; otherwise empty.
    ``pull_seconds``: what training waited for replay. ``by_class``: on each class seen, by its name, or its id where it
    has none; a class without test samples is left out.
    """

    method: str
    phase: int
    classes_seen: int
    accuracy: float
    accuracy_new: float
    accuracy_old: float | None
    by_phase: list[float]
    by_split: dict[str, float]
    by_modality: dict[str, float]
    exemplars: int
    bytes_used: int
    budget_bytes: int
    bytes_per_exemplar: float
    keep_ratio: float
    train_seconds: float
    mask_seconds: float
    push_seconds: float
    pull_seconds: float
    evaluate_seconds: float
    by_class: dict[str, float] = field(default_factory=dict)
    others: float | None = None


@torch.no_grad()
def correct(
    model: Classifier,
    split: Samples,
    batch_size: int = 128,
    show: Callable[[Tokens], Tokens] = lambda tokens: tokens,
) -> NDArray[np.bool_]:
    """``(N,)`` bool: which samples the model names rightly among all classes it has seen, however they are batched: by
    the highest score, whatever scores are. torchmetrics 1.9.0 takes them for logits or not batch by batch
    (findings/torchmetrics_logits_by_batch.sh).

    Args:
        show: what it sees of them, as in :data:`MODALITIES`.
    """
    return np.concatenate(
        [
            (model.scores(show(part.tokens)).argmax(1) == model.targets(part.class_ids).cpu()).numpy()
            for part in split.batches(batch_size)
        ]
    )


def evaluate_phase(
    model: Classifier,
    problem: Problem,
    phase: int,
    *,
    interim_tests_per_class: int = 0,
    by_modality: bool = False,
    others: Sequence[int] = (),
) -> dict[str, Any]:
    """What is known of all classes seen after a phase, by the names of
    :class:`PhaseMetrics`.

    Args:
        interim_tests_per_class: samples of a class in each split before the last phase; 0 = all.
        others: of those, which the phases do not have, too.
        by_modality: ask about the picture alone and the text alone too, after the last phase.
    """
    seen, is_last = problem.seen(phase), phase == len(problem.phases) - 1
    few = interim_tests_per_class
    tests = {name: split.of_classes(seen, at_most=0 if is_last else few) for name, split in problem.tests.items()}
    hits = {name: correct(model, split) for name, split in tests.items()}
    all_hits = np.concatenate(list(hits.values()))
    all_ids = np.concatenate([split.class_ids for split in tests.values()])
    is_new = np.isin(all_ids, problem.phases[phase])
    modalities = {}
    if is_last and by_modality:
        modalities["both"] = float(all_hits.mean())
        tests = {name: split.of_classes(seen, at_most=few) for name, split in tests.items()}
        for name, show in MODALITIES.items():
            alone = [correct(model, split, show=show) for split in tests.values()]
            modalities[name] = float(np.concatenate(alone).mean())
    foreign = [split.of_classes(list(others)) for split in problem.tests.values()] if others else []
    asked = [split for split in foreign if len(split)]
    return {
        "others": float(np.concatenate([correct(model, split) for split in asked]).mean()) if asked else None,
        "accuracy": float(all_hits.mean()),
        "accuracy_new": float(all_hits[is_new].mean()),
        "accuracy_old": float(all_hits[~is_new].mean()) if phase else None,
        "by_phase": accuracy_by_phase(all_hits, all_ids, problem.phases[: phase + 1]),
        # Without those that have no samples: torchmetrics 1.9.0 counts one as 0 in its mean of classes, once it is
        # answered (findings/torchmetrics_macro_unseen.sh).
        "by_class": {
            problem.name_of(class_id): float(all_hits[all_ids == class_id].mean())
            for class_id in seen
            if (all_ids == class_id).any()
        },
        # From the answers themselves: figures of one collection of torchmetrics 1.9.0 become one for good where their
        # first batch counts alike (findings/torchmetrics_groups_by_first_batch.sh).
        "by_split": {name: float(values.mean()) for name, values in hits.items()},
        "by_modality": modalities,
    }


def features_tested(model: Classifier, problem: Problem, phase: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Features ``(N, D)`` of what a phase's classes are tested on, and whose they are, ``(N,)``: what nothing may be
    chosen by but an oracle (``herding-test``)."""
    parts = [split.of_classes(problem.phases[phase]) for split in problem.tests.values()]
    tests = [part.load() for part in parts if len(part)]
    features = [torch.empty((0, model.backbone.feature_dim)), *(model.features(split.tokens) for split in tests)]
    return torch.cat(features), np.concatenate([np.empty(0, np.int64), *(split.class_ids for split in tests)])


def accuracy_by_phase(
    hits: NDArray[np.bool_], class_ids: NDArray[np.int64], phases: Sequence[Sequence[int]]
) -> list[float]:
    """Accuracy on the classes of each phase seen so far."""
    return [float(hits[np.isin(class_ids, classes)].mean()) for classes in phases]


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over the earlier phases' classes of how far the last accuracy lies below the best there was before
    (Chaudhry et al., ECCV 2018, equation 2).

    Args:
        matrix: ``matrix[l][j]``: accuracy on the classes of phase j after phase l; row l has l + 1 entries.
    """
    last = len(matrix) - 1
    if last < 1:
        return 0.0
    drops = [max(matrix[seen][j] for seen in range(j, last)) - matrix[last][j] for j in range(last)]
    return float(np.mean(drops))
