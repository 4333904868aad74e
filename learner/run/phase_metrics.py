"""What is measured of a phase."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PhaseMetrics:
    """One line of ``metrics.jsonl``. Accuracies are shares in [0, 1]; ``old`` is None in phase 0.

    ``by_phase[j]``: accuracy on the classes of phase j. ``by_modality``: with both, the picture alone and the text
    alone, after the last phase of a method that starts from the shared base phase; otherwise empty. ``pull_seconds``:
    what training waited for replay. ``by_class``: on each class seen, by its name, or its id where it has none; a
    class without test samples is left out.
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
