"""Which exemplars replay draws, and how many: what a run asks of the service, and what it tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import MemoryClient
from client.dataset import ReplayDataset
from learner.memory.schedule import hardness
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.run import method_run
from learner.run.config import LearnerConfig, with_settings
from learner.run.methods import parse_method
from learner.run.run import Run
from learner.run.run_mark import buffer_name, mark_of
from learner.training.settings import TrainConfig
from tests.conftest import Service
from tests.learner.builders import make_split
from tests.learner.test_phases import CONFIG, PROBLEM


def test_half_of_all_draws_go_by_the_loss() -> None:
    model = Classifier(small_vilt(hidden_size=64, num_layers=1, num_heads=1), torch.device("cpu"), bf16="off")
    split = make_split([3, 5], 4)
    model.add_classes(split)
    features = torch.zeros(3, model.backbone.feature_dim)
    features[:, 0] = torch.tensor([1.0, 0.0, -1.0])
    model.head.weight.data[0, 0] = 4.0
    scores = hardness(model, features, np.array([3, 3, 3]))
    loss = np.log1p(np.exp([-4.0, 0.0, 4.0]))
    assert scores == pytest.approx(1 + loss / loss.mean(), rel=1e-5)
    assert scores.mean() == pytest.approx(2)


@pytest.mark.parametrize(
    ("method", "strategy", "size", "scored"),
    [
        ("masked", "class_balanced", 8, False),
        ("masked+uniform+replay50", "uniform", 4, False),
        ("masked+forgotten+replay25", "score_weighted", 2, True),
        ("full+forgotten+no-refit", "score_weighted", 8, True),
    ],
)
def test_a_run_draws_as_its_method_says(
    method: str,
    strategy: str,
    size: int,
    scored: bool,
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int]] = []

    class Seen(ReplayDataset):
        def __init__(self, buffer: Any, batch_size: int, **options: Any) -> None:
            asked.append((options["strategy"], batch_size))
            super().__init__(buffer, batch_size, **options)

    monkeypatch.setattr(method_run, "ReplayDataset", Seen)
    out = tmp_path / method
    with MemoryClient(service.url) as client:
        metrics = Run(CONFIG, PROBLEM, client, out).run(parse_method(method))
        name = buffer_name(mark_of(out), "", parse_method(method).slug)
        scores = np.array([info.score for info in client.buffer(name).query()])
    assert asked == [(strategy, size)] * 2
    assert len(metrics) == 3
    # Cosines are 1 at most.
    assert (scores > 1).all() == scored
    assert (scores.mean() == pytest.approx(2, rel=1e-4)) == scored
    assert (scores.std() > 0.01) or not scored


def test_what_makes_no_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="6000 exemplars a step; a draw gives 4096 at most"):
        TrainConfig(batch_size=1000, replay=6)
    with pytest.raises(ValueError, match="those of a shared buffer are others' too"):
        with_settings(LearnerConfig(), {"memory": {"join": "zoo"}, "train": {"draw": "forgotten"}})
