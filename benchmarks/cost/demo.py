"""The demo's model, data and phase 1, for whoever measures a training step of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.processes import ROOT
from learner.memory.exemplars import Stores, by_class, make_exemplars, mask_split, what_to_store
from learner.model.attention_masks import MaskConfig
from learner.model.backbones.choose import make_backbone
from learner.model.classifier import Classifier, best_device
from learner.model.tokenised import TokenisedSplit
from learner.run.config import LearnerConfig, configured
from learner.run.loading import load_problem
from learner.training.settings import TrainConfig
from learner.training.train import Replay, train_phase
from memory_format import Record

SETTINGS = ROOT / "scripts" / "demo.toml"
SEED = 0

QUICK: dict[str, dict[str, Any]] = {
    "data": {"num_classes": 4, "base_classes": 2, "classes_per_phase": 2, "train_per_class": 8, "test_per_class": 2},
    "backbone": {"kind": "small", "hidden_size": 64, "num_layers": 2},
    "train": {"base_epochs": 1, "ssf_epochs": 1, "ssf_layers": 0},
}
"""What a quick run has for the demo's settings."""


def config(*, quick: bool) -> LearnerConfig:
    """The demo's, or the same of next to nothing."""
    settings = tomllib.loads(SETTINGS.read_text())
    if quick:
        settings = {name: table | QUICK.get(name, {}) for name, table in ({"backbone": {}} | settings).items()}
    return configured(settings)


@dataclass(frozen=True)
class Demo:
    """Where the demo is as phase 1 begins, but for what phase 0 would have taught it.

    Attributes:
        old, new: the samples of phases 0 and 1.
        keep: ``(N, K)`` bool, the patches that masks keep of ``new``.
    """

    config: LearnerConfig
    model: Classifier
    old: TokenisedSplit
    new: TokenisedSplit
    keep: torch.Tensor

    @property
    def num_steps(self) -> int:
        """Of an epoch."""
        return self._train.num_steps(1, len(self.new))

    @property
    def _train(self) -> TrainConfig:
        return replace(self.config.train, ssf_epochs=1)

    def epoch(self, replay: Iterable[Replay]) -> None:
        """One pass over the new samples, with replay."""
        generator = torch.Generator().manual_seed(SEED)
        train_phase(self.model, self.new, self.keep, iter(replay), phase=1, config=self._train, generator=generator)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def exemplars(self, stores: Stores, codec: dict[str, Any] | None = None) -> list[Record]:
        """The old samples as they would be stored.

        Args:
            codec: None: the demo's.
        """
        memory = replace(self.config.memory, codec=codec or self.config.memory.codec)
        masked = mask_split(self.model, self.old, self.config.mask, torch.Generator().manual_seed(SEED))
        made = make_exemplars(
            self.model,
            self.old.class_ids,
            what_to_store(self.model, self.old, masked, stores, memory),
            by_class(masked.features, self.old.class_ids),
            memory=memory,
            phase=0,
            learner_id="cost",
            rng=np.random.default_rng(SEED),
        )
        return [record for _, record in made]


def load(directory: Path | None, *, quick: bool) -> Demo:
    """The demo.

    Args:
        directory: where data and weights are kept.
    """
    chosen, problem = load_problem(config(quick=quick), directory)
    old, new = (problem.train.of_classes(problem.phases[phase]).load() for phase in (0, 1))
    torch.manual_seed(SEED)
    backbone = make_backbone(chosen.backbone, chosen.data.image_size, SEED, directory)
    model = Classifier(backbone, best_device(), head=chosen.train.head, bf16=chosen.train.bf16)
    model.tune_by_ssf(chosen.train.ssf_layers)
    for split in (old, new):
        model.add_classes(split)
    keep = mask_split(model, new, MaskConfig(text=False), torch.Generator()).keep_patches
    return Demo(chosen, model, old, new, keep)


def cycled(batches: Sequence[Replay]) -> Iterable[Replay]:
    """The same batches again and again."""
    while True:
        yield from batches
