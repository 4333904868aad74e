"""What the settings leave to the data: how classes are cut into phases, and how large the memory is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from learner.data.settings import DataConfig
from learner.memory.settings import MemoryConfig
from learner.model.tokenised import Samples
from learner.model.tokens import Tokens
from learner.run.config import LearnerConfig
from memory_format import make_codec, make_record

FULL_SAMPLES = 5
"""Of each class that a memory has room for, where the data chooses: the middle of the sizes that the benchmark has."""
LARGEST_SHARE = 0.25
"""Of the samples to train on: a memory of more of them would have little to forget."""
_MEASURED = 64


def suited_phases(data: DataConfig, num_classes: int) -> DataConfig:
    """The settings with ``base_classes`` and ``classes_per_phase`` chosen where they are 0: a third of the classes
    first, and the others in four phases or fewer."""
    base = data.base_classes or min(num_classes, max(2, math.ceil(num_classes / 3)) if num_classes > 2 else 1)
    step = data.classes_per_phase or max(1, math.ceil((num_classes - base) / 4))
    return replace(data, base_classes=base, classes_per_phase=step)


@dataclass(frozen=True)
class Budget:
    """A budget and what it is made of.

    Attributes:
        full_samples: of each class that it has room for.
        full_sample_bytes: what one costs, the mean over some of the data.
    """

    full_samples: int
    full_sample_bytes: int
    num_classes: int

    @property
    def budget_bytes(self) -> int:
        """In two digits: the same data has the same budget where a library's next version packs a little better."""
        exact = self.full_samples * self.full_sample_bytes * self.num_classes
        digits = int(10 ** max(0, len(str(exact)) - 2))
        return math.ceil(exact / digits) * digits

    def __str__(self) -> str:
        return (
            f"{self.budget_bytes:,} bytes: {self.full_samples} full samples of about {self.full_sample_bytes:,} bytes "
            f"for each of {self.num_classes} classes"
        )


def suggest_budget(train: Samples, memory: MemoryConfig) -> Budget:
    """A budget for some data: :data:`FULL_SAMPLES` of each class, but no more than :data:`LARGEST_SHARE` of them.

    Raises:
        PictureError: a picture has become unreadable.
    """
    classes, counts = np.unique(train.class_ids, return_counts=True)
    chosen = classes[:: -(-len(classes) // _MEASURED)].tolist()
    measured = train.of_classes(chosen, at_most=max(1, _MEASURED // len(chosen)))
    charges = [charge for batch in measured.batches(_MEASURED) for charge in _charges(batch.tokens, memory)]
    return Budget(
        full_samples=min(FULL_SAMPLES, max(1, int(LARGEST_SHARE * float(counts.mean())))),
        full_sample_bytes=round(float(np.mean(charges))),
        num_classes=len(classes),
    )


def suited_memory(memory: MemoryConfig, train: Samples) -> MemoryConfig:
    """The settings with a budget, where they have none."""
    if memory.budget_bytes or memory.grows:
        return memory
    return replace(memory, budget_bytes=suggest_budget(train, memory).budget_bytes)


def suited(config: LearnerConfig, train: Samples, num_classes: int) -> LearnerConfig:
    """The configuration with all that is left to the data."""
    return replace(config, data=suited_phases(config.data, num_classes), memory=suited_memory(config.memory, train))


def _charges(tokens: Tokens, memory: MemoryConfig) -> list[int]:
    """What the samples of a batch cost as full samples, by the run's codec."""
    codec = make_codec(memory.codec)
    charges = []
    for sample in range(len(tokens)):
        h, w = tokens.grid[sample].tolist()
        length = int(tokens.token_valid[sample].sum())
        record = make_record(
            patches=tokens.patches[sample, : h * w].numpy(),
            keep_mask=np.ones((h, w), dtype=bool),
            token_ids=tokens.token_ids[sample, :length].numpy(),
            class_id=0,
            codec=codec,
        )
        charges.append(record.charge)
    return charges
