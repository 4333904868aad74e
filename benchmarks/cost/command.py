"""What a learner costs its machine: its time beside others, its memory, its masks, and what it waits for replay.

    python -m benchmarks.cost             the demo, some thirteen minutes on two cores that do nothing else
    python -m benchmarks.cost --quick     a tiny model: does it work? its figures mean nothing

benchmarks/README.md says how each figure is made. Tables and progress go to stderr and to files; the last line of
stdout is one JSON object with the figures that the project promises something about.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from benchmarks.common.builds import NoBuildError, checkout
from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from benchmarks.common.processes import stop_remaining
from benchmarks.cost import beside, demo, masks, peak, replay
from benchmarks.cost.chart import chart
from benchmarks.cost.report import markdown
from benchmarks.cost.run import BEFORE, Run, summary
from learner.data.fetch import FetchError
from learner.run.threads import Neighbours

_BENCHMARK = Benchmark(
    "cost", ("exemplar-memory", "numpy", "torch", "transformers", "httpx", "uvicorn"), markdown, chart
)
_QUICK_DEMO = [
    *("--methods", "masked"),
    *(f"--set={table}.{key}={value}" for table, own in demo.QUICK.items() for key, value in own.items()),
]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    os.environ["TQDM_DISABLE"] = "1"  # the learner's own bars
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-cost-") as place:
            try:
                run = measure(Path(place), options)
            finally:
                stop_remaining()
    except KeyboardInterrupt:
        print("interrupted; processes ended, files removed", file=sys.stderr)
        return 130
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _BENCHMARK.publish(run, summary(run), options, arguments, started, None if options.quick else RESULTS)
    return 0


def measure(place: Path, options: argparse.Namespace) -> Run:
    """All of it, a part after the other."""
    quick, rounds = options.quick, 1 if options.quick else options.rounds
    skipped: list[str] = []

    def tick(what: str) -> None:
        tqdm.write(what, file=sys.stderr)

    _, others = Neighbours().look()
    busy = sum(others)
    found = beside.measure(place, options.data, quick=quick, rounds=rounds, seconds=0 if quick else 3, tick=tick)
    begun = demo.load(options.data, quick=quick)
    replays = replay.measure(place, begun, rounds=rounds, tick=tick)
    tick("masks")
    masked = masks.measure(begun, rounds=min(rounds, 3))
    run = Run(busy, found, replays, masked, len(begun.old), options.seeds, skipped=skipped)
    try:
        before = options.before or checkout(BEFORE, place / "build")
        words = [
            "--config",
            str(demo.SETTINGS),
            "--seeds",
            str(1 if quick else options.seeds),
            *(_QUICK_DEMO if quick else []),
        ]
        run.peaks = peak.measure(place, before, options.data, words, tick=tick)
    except NoBuildError as error:
        skipped.append(f"memory against an earlier build: {error}")
        tick(skipped[-1])
    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model; writes no results unless --results is given"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which a figure is the median")
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="of the demos whose memory is measured (default: %(default)s, as make demo)",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="DIR",
        help=f"checkout of the build that memory is compared with (default: commit {BEFORE} of this clone)",
    )
    parser.add_argument(
        "--data", type=Path, help="data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)"
    )
    add_result_options(parser)
    return parser


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
