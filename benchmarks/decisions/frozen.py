"""What a training step costs on a CPU where later phases tune the last layers alone (`train.later_layers`).

    python -m benchmarks.decisions.frozen

Steps of 8 new samples (112 px, 16 words) beside 8 masked exemplars of 10 patches, in one thread, with the blocks that
the learner has by default. The settings take turns; figures are medians of processor time, as ratios in one run.
Its last line is one JSON object: how many times as fast each number of layers is as all of them.
"""

from __future__ import annotations

import json
import time
from statistics import median

import numpy as np
import torch

from learner.model.backbones.parts import vilt_from_parts
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens
from learner.training.settings import TrainConfig
from learner.training.train import Replay, train_phase

LAYERS = (12, 6, 3, 1)
STEPS, ROUNDS = 4, 5


def main() -> None:
    torch.set_num_threads(1)
    models = {layers: _model(layers) for layers in LAYERS}
    new = TokenisedSplit(_tokens(8 * STEPS, 49), np.arange(8 * STEPS) % 4)
    keep = torch.rand((len(new), 49), generator=torch.Generator().manual_seed(0)) < 0.2
    exemplars = Replay(_tokens(8, 49).keep_patches(torch.arange(49).expand(8, 49) < 10), np.arange(8) % 4, False)
    config = TrainConfig(ssf_epochs=1, batch_size=8)
    seconds: dict[int, list[float]] = {layers: [] for layers in LAYERS}
    for _ in range(ROUNDS):
        for layers, model in models.items():
            generator, started = torch.Generator().manual_seed(1), time.process_time()
            train_phase(model, new, keep, iter([exemplars] * STEPS), phase=1, config=config, generator=generator)
            seconds[layers].append((time.process_time() - started) / STEPS)
    all_layers = median(seconds[LAYERS[0]])
    for layers, found in seconds.items():
        print(f"last {layers:2} layers: {1000 * median(found):.0f} ms a step, x {all_layers / median(found):.2f}")
    print(json.dumps({str(layers): round(all_layers / median(found), 2) for layers, found in seconds.items()}))


def _model(layers: int) -> Classifier:
    model = Classifier(vilt_from_parts(), torch.device("cpu"))
    model.tune_by_ssf()
    model.tune_later(layers)
    model.add_classes(TokenisedSplit(_tokens(4, 49), np.arange(4)))
    return model


def _tokens(number: int, patches: int) -> Tokens:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1000, 9000, (number, 16), generator=generator)
    places = torch.arange(patches).expand(number, patches)
    return Tokens(
        patches=torch.randint(0, 256, (number, patches, 16, 16, 3), dtype=torch.uint8, generator=generator),
        patch_positions=places.contiguous(),
        patch_valid=torch.ones((number, patches), dtype=torch.bool),
        grid=torch.tensor([7, 7]).expand(number, 2).contiguous(),
        token_ids=words,
        token_positions=torch.arange(16).expand(number, 16).contiguous(),
        token_valid=torch.ones((number, 16), dtype=torch.bool),
    )


if __name__ == "__main__":
    main()
