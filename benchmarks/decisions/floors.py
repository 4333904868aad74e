"""What it costs to choose what stays where each learner has a floor, over the same choice without.

    python -m benchmarks.decisions.floors                 a minute on one core
    python -m benchmarks.decisions.floors --records 100000 --rounds 15

A full buffer and a push of a thousand. *even*: the learners came one after another, with as much each. *greedy*: three
quarters are one's, each of the best by what it says itself. No disk and no service: only the choice. Processor time,
with and without in turns; ratios within a round, medians. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Final, get_args

import numpy as np

from benchmarks.common.machine import machine
from memory_format.api.terms import EvictionPolicy
from memory_service.store.pure.eviction import Candidates, plan, reservoir_keys

_PUSHED: Final = 1_000
_FLOORS: Final = (0.01, 0.1, 1.0)
"""Of which nobody needs the first, among the learners that came evenly."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--learners", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"{'':22}{'without, ms':>12}" + "".join(f"{f'floor {share:g}':>12}" for share in _FLOORS))
    found: dict[str, dict[str, list[float]]] = {}
    for kind in ("even", "greedy"):
        candidates = _candidates(kind, options.records, options.classes, options.learners)
        budget = int(candidates.charge[:-_PUSHED].sum())
        for policy in get_args(EvictionPolicy):
            if policy == "reject":
                continue
            shares = (None, *_FLOORS)
            rounds = [[_seconds(policy, candidates, budget, share) for share in shares] for _ in range(options.rounds)]
            without = round(1e3 * statistics.median(seconds[0] for seconds in rounds), 1)
            ratios = [
                round(statistics.median(seconds[at] / seconds[0] for seconds in rounds), 1)
                for at in range(1, len(_FLOORS) + 1)
            ]
            found.setdefault(kind, {})[policy] = [without, *ratios]
            print(f"{kind:8}{policy:14}{without:12}" + "".join(f"{f'{ratio} x':>12}" for ratio in ratios))
    print(json.dumps({**vars(options), "found": found, "machine": machine()}))
    return 0


def _candidates(kind: str, num: int, classes: int, learners: int) -> Candidates:
    random, order = np.random.default_rng(0), np.arange(num)
    rank, score = random.integers(0, 100, num).astype(np.uint32), random.random(num).astype(np.float32)
    learner = order * learners // num
    if kind == "greedy":
        learner = np.where(order < num // 4, random.integers(1, learners, num), 0)
        rank[learner == 0], score[learner == 0] = 0, 1
    return Candidates(
        class_id=random.integers(0, classes, num),
        rank=rank.astype(np.int64),
        score=score,
        charge=random.integers(900, 1100, num),
        order=order,
        key=reservoir_keys("benchmark", order.astype(np.uint64)),
        learner=learner.astype(np.uint32),
    )


def _seconds(policy: EvictionPolicy, candidates: Candidates, budget: int, share: float | None) -> float:
    began = time.process_time()
    plan(policy, candidates, len(candidates.charge) - _PUSHED, budget, share)
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
