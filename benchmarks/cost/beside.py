"""A learner beside a process that computes all the time, and beside another learner."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common.processes import ChildProcess
from benchmarks.common.rounds import Figure
from benchmarks.cost import demo
from benchmarks.cost.run import Beside
from benchmarks.cost.trainer import Trainer

_BUSY = "print('busy', flush=True)\nwhile True: pass"


@contextlib.contextmanager
def neighbour(log: Path) -> Iterator[None]:
    """One core's worth of work, for as long as the block lasts."""
    process = ChildProcess([sys.executable, "-c", _BUSY], log)
    try:
        yield
    finally:
        process.process.kill()
        process.close()


def measure(
    place: Path, directory: Path | None, *, quick: bool, rounds: int, seconds: float, tick: Callable[[str], object]
) -> Beside:
    """Take turns: the first alone, each of the two beside a busy process, and both at once.

    Args:
        place: for logs.
        seconds: of a turn.
    """
    log = place / "beside.log"
    tick("a learner alone")
    first = Trainer(directory, log, quick=quick)
    with neighbour(log):
        tick("a learner beside a busy process")
        second = Trainer(directory, log, quick=quick)

    def turn(*trainers: Trainer) -> float:
        """Seconds that a sample takes trainers who train at once."""
        for trainer in trainers:
            trainer.begin(seconds)
        return 1 / sum(1 / trainer.end() for trainer in trainers)

    alone: list[float] = []
    beside: tuple[list[float], list[float]] = ([], [])
    together: list[float] = []
    for number in range(rounds + 1):
        tick(f"learners beside others, round {number} of {rounds}")
        one = turn(first)
        with neighbour(log):
            turns = [turn(trainer) for trainer in (first, second)]
        both = turn(first, second)
        if number:  # the first round warms
            alone.append(one)
            for figures, value in zip(beside, turns, strict=True):
                figures.append(value)
            together.append(one / both)
    known = first.threads, second.threads, 2 * demo.config(quick=quick).train.batch_size
    for trainer in (first, second):
        trainer.close()
    return Beside(*known, Figure(tuple(alone)), Figure(tuple(beside[0])), Figure(tuple(beside[1])), tuple(together))
