"""A learner in a process of its own, that trains for as long as it is told to.

It chooses its number of threads as ``learner run`` does, says it, and then trains for as many seconds as each line of
stdin says. Its answer is the seconds that a sample took.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common.processes import ChildProcess
from benchmarks.cost import demo
from client import ReplayBatch
from client.tensors import to_tensors
from learner.memory.exemplars import to_replay
from learner.run.threads import Neighbours, choose
from learner.training.train import Replay

_STEPS = 3
"""Of an epoch: short ones end soon after they should."""


class Trainer(ChildProcess):
    """The process, from the one that measures.

    Attributes:
        threads: how many it computes with.
    """

    def __init__(self, directory: Path | None, log: Path, *, quick: bool) -> None:
        words = [sys.executable, "-m", "benchmarks.cost.trainer", str(directory or ""), "quick" if quick else ""]
        super().__init__(words, log)
        self.threads = int(self.first_line)

    def begin(self, seconds: float) -> None:
        """Have it train."""
        self.write_line(str(seconds))

    def end(self) -> float:
        """Seconds that a sample took.

        Raises:
            RuntimeError: it ended.
        """
        line = self.read_line()
        if not line:
            raise RuntimeError("a trainer ended by itself")
        return float(line)


def main(directory: str, quick: str) -> None:
    """What the process does."""
    threads = choose(None, {}, Neighbours()).number
    torch.set_num_threads(threads)
    begun = demo.load(Path(directory) if directory else None, quick=bool(quick))
    few = next(begun.new.batches(_STEPS * begun.config.train.batch_size))
    begun = replace(begun, new=few, keep=begun.keep[: len(few)])
    records, size = begun.exemplars("masked"), begun.config.train.batch_size
    chosen = [records[start : start + size] for start in range(0, len(records) - size + 1, size)]
    batches = [to_replay(to_tensors(ReplayBatch.from_records(part))) for part in chosen]
    begun.epoch(demo.cycled(batches))
    print(threads, flush=True)
    for line in sys.stdin:
        print(_train(begun, batches, float(line)), flush=True)


def _train(begun: demo.Demo, batches: list[Replay], seconds: float) -> float:
    """Seconds that a sample took.

    What ends after ``seconds`` does not count, unless it is all there is: then whoever trains at the same time, and as
    long, has been there all the while.
    """
    started, epochs, took = time.perf_counter(), 0, 0.0
    while not epochs or took < seconds:
        begun.epoch(demo.cycled(batches))
        now = time.perf_counter() - started
        if epochs and now > seconds:
            break
        epochs, took = epochs + 1, now
    return took / (epochs * 2 * begun.config.train.batch_size * begun.num_steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
