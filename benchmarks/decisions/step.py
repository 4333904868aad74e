"""Samples a second of a training step on a CPU: this build over an earlier one, side by side (docs/decisions/0002).

    python -m benchmarks.decisions.step                 two minutes on two cores that do nothing else
    python -m benchmarks.decisions.step --before main~5 --rounds 3

Each build trains in a process of its own, first on all cores and then on one thread, and they take turns: steps of 8
new samples (112 px, texts of 5 to 28 tokens) beside 8 masked exemplars of some 10 patches, by the recipe of
`make bench-learner`, SSF in all twelve blocks. Both are given the same samples and draw the same views of them. A
figure is the median over rounds, a ratio that of the ratios within each. `wall` is time that passed, `processor` that
of all threads. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common.builds import checkout
from benchmarks.common.processes import ROOT, ChildProcess, stop_remaining
from learner.data.fetch import data_dir

BEFORE = "7bf1378"
"""The last commit whose steps computed padding."""
SECONDS = 4
"""Of a turn, about."""


class Trainer(ChildProcess):
    """A build that trains, a turn at a time."""

    def __init__(self, build: Path, place: Path, threads: int) -> None:
        own = {"PYTHONPATH": str(build), "PYTHONSAFEPATH": "1", "EXEMPLAR_MEMORY_DATA": str(data_dir().resolve())}
        script = Path(__file__).with_name("step_trainer.py")
        super().__init__([sys.executable, str(script), str(threads), str(SECONDS)], place / "log", own)

    def turn(self) -> tuple[float, float]:
        """Seconds a sample: that passed, and of processors."""
        self.write_line("")
        wall, processor = json.loads(self.read_line())
        return wall, processor


def main() -> None:
    """Both builds in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which a figure is the median")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    summary: dict[str, float] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-step-") as name:
            place = Path(name)
            before = checkout(options.before, place / "build")
            for setting, threads in {"all cores": cores, "one thread": 1}.items():
                with Trainer(before, place, threads) as was, Trainer(ROOT, place, threads) as now:
                    rounds = [_round(was, now, swapped=bool(number % 2)) for number in range(options.rounds)]
                for kind, pairs in zip(("wall", "processor"), zip(*rounds, strict=True), strict=True):
                    old, new = (1 / statistics.median(values) for values in zip(*pairs, strict=True))
                    ratio = statistics.median(a / b for a, b in pairs)
                    print(f"{setting}, {kind}: {old:.1f} samples a second before, {new:.1f} now, x {ratio:.2f}")
                    summary[f"{setting}, {kind}"] = round(ratio, 3)
    finally:
        stop_remaining()
    print(json.dumps(summary))


def _round(was: Trainer, now: Trainer, *, swapped: bool) -> list[tuple[float, float]]:
    """Of each kind of time the seconds a sample, before and now."""
    if swapped:
        new, old = now.turn(), was.turn()
    else:
        old, new = was.turn(), now.turn()
    return list(zip(old, new, strict=True))


if __name__ == "__main__":
    main()
