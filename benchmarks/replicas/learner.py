"""One learner under load, a process of its own.

    python -m benchmarks.replicas.learner URL NUMBER push|sample|both RECORDS.arrow

It says a line when it is ready. To each line it gets, a number of seconds, it answers with one of JSON, what each
request took in that time, and how much of a processor all of it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

from client import MemoryClient
from memory_format import decode_batch

BUFFER = "shared"
BATCH = 32
DRAWS = 8
"""For each push, of who does both: a step of training draws, a phase pushes."""


def main(url: str, number: int, kind: str, pushed: Path) -> None:
    records = decode_batch(pushed.read_bytes())
    batches = [records[at : at + BATCH] for at in range(0, len(records), BATCH)]
    with MemoryClient(url) as memory:
        buffer = memory.buffer(BUFFER)
        steps = itertools.count(1_000_000 * number)

        def push(step: int) -> None:
            buffer.push(batches[step % len(batches)])

        def sample(step: int) -> None:
            buffer.sample(BATCH, seed=number, step=step)

        push(0)
        sample(next(steps))
        print("ready", flush=True)
        for line in sys.stdin:
            seconds: dict[str, list[float]] = {"push": [], "sample": []}
            end = time.perf_counter() + float(line)
            used = time.process_time()
            # At least one of each kind, however little time there is.
            for turn in itertools.count():
                if (began := time.perf_counter()) >= end and turn >= 2:
                    break
                pushes = kind == "push" or (kind == "both" and turn % (DRAWS + 1) == 0)
                (push if pushes else sample)(next(steps))
                seconds["push" if pushes else "sample"].append(time.perf_counter() - began)
            print(json.dumps({**seconds, "processor": [time.process_time() - used]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
