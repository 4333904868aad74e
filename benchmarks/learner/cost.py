"""What masking and replay cost a training step.

    python -m benchmarks.learner.cost             DINOv2-S + MiniLM at 112 px, about three minutes on two cores
    python -m benchmarks.learner.cost --quick     a tiny model: does it work? its figures mean nothing

Masks: features, attention and masks of full samples, over features alone. Replay: training steps with batches from the
memory service, fetched ahead, over the same steps with the same batches held as tensors. Contestants take turns; a
ratio is taken within each round, and its median given. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.machine import machine
from benchmarks.common.processes import stop_remaining
from benchmarks.common.rounds import Figure, interleave, ratio, timed
from benchmarks.common.service import Service
from benchmarks.learner import plans
from benchmarks.learner.plans import Job, Plan
from client import Buffer, MemoryClient
from client.dataset import ReplayDataset
from learner.memory.exemplars import make_exemplars, mask_split, to_replay, what_to_store
from learner.model.attention_masks import MaskConfig
from learner.model.backbones.choose import make_backbone
from learner.model.classifier import Classifier, best_device
from learner.model.tokenised import TokenisedSplit
from learner.training.train import train_phase

MASKS: dict[str, MaskConfig] = {
    "masks": MaskConfig(text=False),
    "masks, text too": MaskConfig(),
    "masks, mean of 2 layers": MaskConfig(text=False, layers="mean", last_layers=2),
}
_SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.environ["TQDM_DISABLE"] = "1"
    plan = plans.quick() if options.quick else plans.default()
    try:
        with tempfile.TemporaryDirectory(prefix="learner-cost-") as place:
            print(json.dumps(measure(plan, Path(place), options.data, options.rounds)), flush=True)
    except KeyboardInterrupt:
        return 130
    finally:
        stop_remaining()
    return 0


def measure(plan: Plan, place: Path, directory: Path | None, rounds: int) -> dict[str, Any]:
    """All figures; tables go to stderr."""
    config = Job(plan.num_phases[0], _SEED, plans.REFERENCE_MEMORY, "masked").config(plan, 1)
    problem = plans.load_problem(plan, plan.jobs()[0], directory)
    old, new = (problem.train.of_classes(problem.phases[phase]).load() for phase in (0, 1))
    torch.manual_seed(_SEED)
    device = best_device()
    backbone = make_backbone(config.backbone, config.data.image_size, _SEED, directory)
    model = Classifier(backbone, device, head=config.train.head, bf16=config.train.bf16)
    model.tune_by_ssf()
    for split in (old, new):
        model.add_classes(split)
    masks = _mask_figures(model, old, rounds)
    with Service(place / "memory") as service, MemoryClient(service.url) as client:
        buffer = client.create_buffer("cost", budget_bytes=2**24)
        masked = mask_split(model, old, config.mask, torch.Generator().manual_seed(_SEED))
        exemplars = make_exemplars(
            model,
            old.class_ids,
            what_to_store(model, old, masked, "masked"),
            masked.features,
            memory=config.memory,
            phase=0,
            learner_id="cost",
            rng=np.random.default_rng(_SEED),
        )
        buffer.push(record for _, record in exemplars)
        train = replace(config.train, ssf_epochs=1)
        steps, waited = _step_figures(model, new, buffer, train, rounds)
    plain, replayed = masks.pop("forward"), steps["replay from the service"]
    num_steps = -(-len(new) // train.batch_size)
    document: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "machine": machine(),
        "mask_over_forward": {name: round(ratio(figure, plain), 3) for name, figure in masks.items()},
        "forward_samples_per_second": round(len(old) / plain.median, 1),
        "step_service_over_tensors": round(ratio(replayed, steps["replay from tensors"]), 3),
        "step_ms": round(1e3 * replayed.median / num_steps, 1),
        "step_samples_per_second": round(2 * train.batch_size * num_steps / replayed.median, 1),
        "replay_wait_share": round(waited / sum(replayed.seconds), 4),
    }
    if device.type == "cuda":
        document["peak_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    for name, value in document.items():
        print(f"{name}: {value}", file=sys.stderr)
    return document


def _mask_figures(model: Classifier, split: TokenisedSplit, rounds: int) -> dict[str, Figure]:
    def masking(config: MaskConfig) -> Callable[[], float]:
        return lambda: timed(lambda: mask_split(model, split, config, torch.Generator()))

    tasks = {name: masking(config) for name, config in MASKS.items()}
    return interleave({"forward": lambda: timed(lambda: model.features(split.tokens)), **tasks}, rounds=rounds)


def _step_figures(
    model: Classifier, new: TokenisedSplit, buffer: Buffer, config: Any, rounds: int
) -> tuple[dict[str, Figure], float]:
    """Seconds of one epoch over ``new`` each way, and those that the service's batches were waited for."""
    keep = mask_split(model, new, MaskConfig(text=False), torch.Generator()).keep_patches
    num_steps = -(-len(new) // config.batch_size)
    waits: list[float] = []

    def dataset() -> ReplayDataset:
        return ReplayDataset(buffer, config.batch_size, seed=_SEED, strategy="class_balanced")

    held = [to_replay(batch) for batch in itertools.islice(dataset(), num_steps)]

    def epoch(replay: Any) -> None:
        train_phase(model, new, keep, replay, phase=1, config=config, generator=torch.Generator().manual_seed(_SEED))
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    def from_service() -> None:
        source = dataset()
        batches = iter(source)
        try:
            epoch(to_replay(batch) for batch in batches)
        finally:
            batches.close()
        waits.append(source.wait_seconds)

    figures = interleave(
        {
            "replay from the service": lambda: timed(from_service),
            "replay from tensors": lambda: timed(lambda: epoch(iter(held))),
        },
        rounds=rounds,
    )
    # The two warming turns do not count.
    return figures, sum(waits[-rounds:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and set")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which a figure is the median")
    parser.add_argument(
        "--data", type=Path, help="data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
