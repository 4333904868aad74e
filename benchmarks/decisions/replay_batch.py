"""From an answer's bytes to a replay batch without pixels: by way of records, and from the columns as they came.

python -m benchmarks.decisions.replay_batch

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import statistics

from benchmarks.common.records import Noise, Pictures
from benchmarks.common.rounds import interleave, timed
from client import ReplayBatch
from memory_format import check_batch, decode_batch, encode_batch, read_batch

RECORDS = 256
ROUNDS = 30


def main() -> None:
    print(f"{RECORDS} records, milliseconds (median of {ROUNDS} rounds, the ways in turn)")
    ratios = {}
    for name, maker in (("small", Noise()), ("pictures", Pictures(20_000))):
        data = encode_batch(maker.batch(0, RECORDS).records)
        ratios[name] = _compare(name, data)
    print(json.dumps({"replay_batch_columns_vs_records": ratios}))


def _compare(name: str, data: bytes) -> float:
    def by_records() -> ReplayBatch:
        return ReplayBatch.from_records(decode_batch(data), pixels=False)

    def from_columns() -> ReplayBatch:
        batch = read_batch(data)
        check_batch(batch)
        return ReplayBatch.from_batch(batch, pixels=False)

    tasks = {"records": lambda: timed(by_records), "columns": lambda: timed(from_columns)}
    found = interleave(tasks, rounds=ROUNDS, round_seconds=0.1)
    slow, fast = found["records"], found["columns"]
    ratio = statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
    each = len(data) // RECORDS
    print(
        f"{name:>9}, {each} bytes each: by records {1e3 * slow.median:.2f}, from columns {1e3 * fast.median:.2f}: "
        f"x {ratio:.1f}"
    )
    return round(ratio, 2)


if __name__ == "__main__":
    main()
