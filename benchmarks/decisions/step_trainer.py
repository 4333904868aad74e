"""What :mod:`benchmarks.decisions.step` has each build do: a script that knows only what both of them have.

    python benchmarks/decisions/step_trainer.py THREADS SECONDS

It says a line when it is ready. For each line of stdin it trains for some seconds and answers with the seconds that a
sample took, ``[passed, of all threads]``.
"""

# ruff: noqa: E402
from __future__ import annotations

from learner.before_torch import prepare

prepare()
import json
import sys
import time

import numpy as np
import torch

from learner.model.backbones.parts import vilt_from_parts
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens
from learner.training.settings import TrainConfig
from learner.training.train import Replay, train_phase

BATCH, STEPS = 8, 4
"""New samples of a step, and steps of an epoch."""
CLASSES = 4
PATCHES, PATCH_PX = 49, 16


def main(threads: str, seconds: str) -> None:
    """Train when told to."""
    torch.set_num_threads(int(threads))
    generator = torch.Generator().manual_seed(0)
    new, old = (_samples(BATCH * STEPS, generator) for _ in range(2))
    keep, kept = (torch.rand((BATCH * STEPS, PATCHES), generator=generator) < 0.2 for _ in range(2))
    exemplars = old.tokens.keep_patches(kept)
    replay = [
        Replay(exemplars[rows], old.class_ids[rows.numpy()], complete=False)
        for rows in torch.arange(BATCH * STEPS).split(BATCH)
    ]
    torch.manual_seed(0)
    model = Classifier(vilt_from_parts(), torch.device("cpu"))
    model.tune_by_ssf()
    model.add_classes(new)
    config = TrainConfig(ssf_epochs=1, batch_size=BATCH, modality_drop=0.3, ssf_lr=1e-3)

    def epoch() -> None:
        drawing = torch.Generator().manual_seed(1)
        train_phase(model, new, keep, iter(replay), phase=1, config=config, generator=drawing)

    epoch()
    print("ready", flush=True)
    for _ in sys.stdin:
        passed, computed, epochs = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - passed < float(seconds):
            epoch()
            epochs += 1
        samples = 2 * BATCH * STEPS * epochs
        took = time.perf_counter() - passed, time.process_time() - computed
        print(json.dumps([value / samples for value in took]), flush=True)


def _samples(number: int, generator: torch.Generator) -> TokenisedSplit:
    """Whole pictures of noise, and texts of 5 to 28 tokens."""
    lengths = torch.randint(5, 29, (number,), generator=generator)
    places = torch.arange(28).expand(number, 28)
    tokens = Tokens(
        patches=torch.randint(0, 256, (number, PATCHES, PATCH_PX, PATCH_PX, 3), dtype=torch.uint8, generator=generator),
        patch_positions=torch.arange(PATCHES).expand(number, PATCHES).contiguous(),
        patch_valid=torch.ones((number, PATCHES), dtype=torch.bool),
        grid=torch.tensor([7, 7]).expand(number, 2).contiguous(),
        token_ids=torch.randint(1000, 9000, (number, 28), generator=generator),
        token_positions=places.contiguous(),
        token_valid=places < lengths[:, None],
    )
    return TokenisedSplit(tokens, np.arange(number) % CLASSES)


if __name__ == "__main__":
    main(*sys.argv[1:])
