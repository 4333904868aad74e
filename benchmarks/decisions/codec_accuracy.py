"""Which codec and quality the learner should store with: accuracy at equal bytes, on the demo's own run.

    python -m benchmarks.decisions.codec_accuracy                        every candidate, two seeds: docs/decisions/0007
    python -m benchmarks.decisions.codec_accuracy --seeds 0 --only webp-q30,avif-q40

Each candidate is a run of the demo with another ``memory.codec``: same data, same budget in bytes, same seed, and the
same base phase, which is trained once a seed. Ctrl-C stops it; the same command goes on from the last finished stage.
The table goes to stdout and, with ``--results``, to a file.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.service import Service
from benchmarks.common.tables import table
from client import MemoryClient
from learner.data.settings import DataConfig
from learner.model.tokens import Tokens
from learner.run.config import LearnerConfig
from learner.run.loading import load_problem
from learner.run.methods import parse_method
from learner.run.problem import Problem
from learner.run.run import Run
from learner.run.summary import phase_line, summarise
from memory_format import make_codec, make_record

OUT = Path("runs/codec-accuracy")

CODECS: dict[str, dict[str, Any]] = {
    **{f"webp-q{quality}": {"id": "em_webp", "quality": quality} for quality in (5, 15, 30, 60)},
    **{f"avif-q{quality}": {"id": "em_avif", "quality": quality} for quality in (20, 35, 50)},
    "jpeg-q25": {"id": "em_jpeg", "quality": 25},
}

METHODS: tuple[str, ...] = ("masked", "full")


@dataclass(frozen=True)
class Outcome:
    """One candidate with one method and one seed."""

    codec: str
    method: str
    seed: int
    last: float
    average: float
    exemplars: int
    bytes_per_exemplar: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # As after Ctrl-C: the service must not outlive this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    options.out.mkdir(parents=True, exist_ok=True)
    data = replace(DataConfig(), test_per_class=options.test_per_class)
    _, problem = load_problem(LearnerConfig(data=data), options.data)
    outcomes = []
    try:
        # A store for each set of seeds: two of these may run side by side.
        store = options.out / f"store-{'-'.join(map(str, options.seeds))}"
        with Service(store) as service, MemoryClient(service.url) as client:
            for seed, name, method in itertools.product(options.seeds, options.only, options.methods):
                outcomes.append(_run(name, method, seed, problem, data, client, options))
    except KeyboardInterrupt:
        print("interrupted; finished phases are kept: the same command goes on from there", file=sys.stderr)
        return 130
    document = "\n\n".join((table(*_rows(outcomes)), table(*_encoding(options.only, problem))))
    print(document)
    if options.results:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(document + "\n")
    return 0


def _run(
    name: str,
    method: str,
    seed: int,
    problem: Problem,
    data: DataConfig,
    client: MemoryClient,
    options: argparse.Namespace,
) -> Outcome:
    config = LearnerConfig(data=data, seed=seed)
    config = replace(config, memory=replace(config.memory, codec=CODECS[name], snapshots=False))

    def report(metrics: Any) -> None:
        print(f"{name} seed {seed}: {phase_line(metrics, len(problem.phases))}", file=sys.stderr, flush=True)

    run = Run(
        config,
        problem,
        client,
        options.out / f"{name}-seed-{seed}",
        directory=options.data,
        base=options.out / f"base-seed-{seed}.pt",
        report=report,
    )
    lines = run.run(parse_method(method))
    found = summarise(lines)
    return Outcome(name, method, seed, found.last, found.average, lines[-1].exemplars, found.bytes_per_exemplar)


def _rows(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """One row a candidate and method: means over seeds, and each seed's own figures."""
    rows = []
    for name, method in dict.fromkeys((outcome.codec, outcome.method) for outcome in outcomes):
        these = [outcome for outcome in outcomes if (outcome.codec, outcome.method) == (name, method)]
        rows.append(
            [
                name,
                method,
                f"{statistics.mean(o.bytes_per_exemplar for o in these):,.0f}",
                f"{statistics.mean(o.exemplars for o in these):.0f}",
                f"{statistics.mean(o.average for o in these):.3f}",
                " ".join(f"{o.average:.3f}" for o in these),
                f"{statistics.mean(o.last for o in these):.3f}",
                " ".join(f"{o.last:.3f}" for o in these),
            ]
        )
    head = ["codec", "method", "bytes each", "exemplars", "average accuracy", "by seed", "last accuracy", "by seed"]
    return head, rows


def _encoding(names: Sequence[str], problem: Problem) -> tuple[list[str], list[list[str]]]:
    """Milliseconds to make a record of a whole picture and of a quarter of it, in one thread."""
    rows = []
    tokens = problem.train.load().tokens[:: max(1, len(problem.train) // 64)]
    some = np.random.default_rng(0).random(tokens.patches.shape[1]) < 0.27
    for name in names:
        milliseconds = [
            statistics.median(_seconds(tokens, place, keep, CODECS[name]) for place in range(len(tokens))) * 1e3
            for keep in (some, np.ones_like(some))
        ]
        rows.append([name, *(f"{value:.1f}" for value in milliseconds)])
    return ["codec", "ms a masked exemplar", "ms a whole picture"], rows


def _seconds(tokens: Tokens, place: int, keep: np.ndarray[Any, np.dtype[np.bool_]], codec: dict[str, Any]) -> float:
    patches = tokens.patches[place].numpy()[keep]
    grid = tuple(tokens.grid[place].tolist())
    started = time.perf_counter()
    make_record(class_id=0, patches=patches, keep_mask=keep.reshape(grid), codec=make_codec(codec))
    return time.perf_counter() - started


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the runs (default: {OUT})")
    parser.add_argument(
        "--data", type=Path, help="folder of data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)"
    )
    parser.add_argument("--seeds", type=_numbers, default=[0, 1], help="default: 0,1")
    parser.add_argument("--only", type=_codecs, default=list(CODECS), help=f"of {','.join(CODECS)}")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help="default: both")
    parser.add_argument("--test-per-class", type=int, default=20, help="pictures a class to test on, of each split")
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    parser.add_argument("--results", type=Path, help="file for the tables")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _codecs(text: str) -> list[str]:
    if unknown := set(text.split(",")) - set(CODECS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CODECS)}")
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
