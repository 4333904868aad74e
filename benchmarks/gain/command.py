"""Avalanche's strategies with its own buffer, and with exemplars in the service: who remembers more in equal bytes?

    python -m benchmarks.gain                the demo's 18 classes and 50,000 bytes, 5 seeds, 3 strategies
    python -m benchmarks.gain --validation   classes that are in no table: what settings were chosen on
    python -m benchmarks.gain --quick        one seed of few pictures: does it work? its figures mean nothing

Interrupted, the same command goes on at the training that it was in. Progress and tables go to stderr; the last line of
stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from benchmarks.gain.found import Score
from benchmarks.gain.model import Frozen
from benchmarks.gain.report import chart, markdown, summary
from benchmarks.gain.run import STRATEGIES, Problem, Samples, Training, measure
from benchmarks.gain.ways import WAYS
from client import MemoryClient
from learner.data.base import Split
from learner.data.emoji import load_emoji
from learner.model.vit import pretrained_vit
from memory_service.testing import ServiceProcess

CLASSES = 18
KEEP = 0.3
_OWN = tuple(name for name, way in WAYS.items() if way.own)
_BENCHMARK = Benchmark(
    "gain", ("exemplar-memory", "avalanche-lib", "numpy", "pillow", "timm", "torch"), markdown, chart
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if len({WAYS[way].own for way in options.ways}) < 2:
        parser.error(f"--ways needs one of the library's own, {', '.join(_OWN)}, and another to compare with it")
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    torch.set_num_threads(1)
    started = time.monotonic()
    problem = load_problem(options)
    out = options.out or Path("runs") / "-".join(
        ["bench-gain", str(options.budget), *(name for name in ("validation", "quick") if getattr(options, name))]
    )
    seeds = range(1 if options.quick else options.seeds)
    total = len(options.ways) * len(options.strategies) * len(seeds)
    with (
        tempfile.TemporaryDirectory(prefix="bench-gain-") as place,
        ServiceProcess(Path(place) / "memory") as service,
        MemoryClient(service.url) as memory,
        tqdm(total=total, unit="training", file=sys.stderr) as bar,
    ):
        run = measure(
            problem,
            memory,
            out,
            budget_bytes=options.budget,
            ways=options.ways,
            strategies=options.strategies,
            seeds=seeds,
            tick=_told(bar),
        )
    kept = None if options.quick or options.validation else RESULTS
    _BENCHMARK.publish(run, summary(run), options, arguments, started, kept)
    return 0


def load_problem(options: argparse.Namespace) -> Problem:
    """The demo's data set, and a ViT whose weights it has."""
    first, number = (CLASSES if options.validation else 0), 6 if options.quick else CLASSES
    train, test = (8, 4) if options.quick else (24, 16)
    data = load_emoji(
        size=112,
        num_classes=first + number,
        train_per_class=train,
        test_per_class=test,
        directory=options.data,
    )

    def samples(split: Split) -> Samples:
        chosen = split.subset(range(first, first + number))
        pictures = torch.from_numpy(np.asarray(chosen.images)).permute(0, 3, 1, 2).contiguous()
        return Samples(pictures, torch.from_numpy(chosen.class_ids - first))

    return Problem(
        samples(data.train),
        [samples(split) for split in data.test.values()],
        Frozen(pretrained_vit(image_size=112, directory=options.data), KEEP),
        (first, first + number),
        Training(epochs=1, gdumb_epochs=1) if options.quick else Training(),
    )


def _told(bar: tqdm[None]) -> Callable[[Score], None]:
    def tick(score: Score) -> None:
        bar.update()
        told = f"{score.strategy}, {score.way}, seed {score.seed}: {100 * score.last:.1f}, {score.exemplars} items"
        bar.write(f"{told}, {score.bytes_held:,} bytes", file=sys.stderr)

    return tick


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if set(found) - set(known):
            raise argparse.ArgumentTypeError(f"there are {', '.join(known)}, got {text}")
        return found

    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="writes no results unless --results is given")
    parser.add_argument("--validation", action="store_true", help="the same")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--budget", type=int, default=50_000, help="bytes of each buffer (default: %(default)s)")
    for name, known in (("ways", list(WAYS)), ("strategies", list(STRATEGIES))):
        parser.add_argument(f"--{name}", type=_names(known), default=tuple(known), help="(default: all)")
    parser.add_argument("--out", type=Path, help="what is done already (default: runs/bench-gain...)")
    parser.add_argument(
        "--data", type=Path, help="data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)"
    )
    add_result_options(parser)
    return parser
