"""Rounds: contestants take turns, so that whatever else the machine does hits all of them alike.

A figure is the median over rounds. A ratio is taken within each round, and then its median: noise that lasts
longer than a round cancels.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Task = Callable[[], float]
"""Does its work once and returns the seconds that it took."""


@dataclass(frozen=True)
class Figure:
    """Seconds, one value a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; the extremes where there are fewer than three rounds."""
        if len(self.seconds) < 3:
            return min(self.seconds), max(self.seconds)
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    def document(self) -> dict[str, object]:
        first, third = self.quartiles
        return {
            "median_ms": _ms(self.median),
            "quartiles_ms": [_ms(first), _ms(third)],
            "rounds_ms": [_ms(value) for value in self.seconds],
        }


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleave(
    tasks: Mapping[str, Task],
    *,
    rounds: int,
    warm_up: bool = True,
    round_seconds: float = 0.0,
    most_repeats: int = 25,
    tick: Callable[[str], object] = lambda name: None,
    before_turn: Callable[[str], object] = lambda name: None,
) -> dict[str, Figure]:
    """Run every task in every round, in another order each round.

    Args:
        warm_up: twice before the first round, and once before each turn of a task that is repeated within
            it, without counting.
        round_seconds: a task shorter than this is repeated within its turn for about as long, and the turn's
            value is the median; 0 = once.
        most_repeats: the most repeats in a turn.
        tick: called with the name of the task that has its turn.
        before_turn: the same, for work that the turn needs and does not count.
    """
    repeats = dict.fromkeys(tasks, 1)
    if warm_up:
        for name, task in tasks.items():
            tick(name)
            before_turn(name)
            task()
            expected = max(task(), 1e-6)
            repeats[name] = max(1, min(most_repeats, int(round_seconds / expected)))
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    order = list(tasks)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            tick(name)
            before_turn(name)
            if repeats[name] > 1:
                tasks[name]()
            seconds[name].append(statistics.median(tasks[name]() for _ in range(repeats[name])))
    return {name: Figure(tuple(values)) for name, values in seconds.items()}


def ratio(over: Figure, under: Figure) -> float:
    """``over / under`` within each round; the median of that."""
    return statistics.median(a / b for a, b in zip(over.seconds, under.seconds, strict=True))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)
