"""Features, attention and masks of samples, over features alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.common.rounds import Figure, interleave, timed
from benchmarks.cost.demo import Demo
from learner.memory.exemplars import mask_split
from learner.model.attention_masks import MaskConfig

KINDS: dict[str, MaskConfig] = {
    "masks": MaskConfig(text=False),
    "masks, text too": MaskConfig(),
    "masks, mean of 2 layers": MaskConfig(text=False, layers="mean", last_layers=2),
}


def measure(begun: Demo, *, rounds: int) -> dict[str, Figure]:
    """Seconds of a plain pass over the old samples (``forward``), and of masks of each kind."""
    model, split = begun.model, begun.old

    def masking(config: MaskConfig) -> Callable[[], float]:
        return lambda: timed(lambda: mask_split(model, split, config, torch.Generator()))

    tasks = {name: masking(config) for name, config in KINDS.items()}
    return interleave({"forward": lambda: timed(lambda: model.features(split.tokens)), **tasks}, rounds=rounds)
