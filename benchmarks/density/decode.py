"""How many records a second the client decodes into a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.density.measure import Setting, exemplar
from benchmarks.density.pictures import Sample
from client import ReplayBatch
from memory_format import Record

BATCH = 256


@dataclass(frozen=True)
class Speed:
    """Median records a second of ``ReplayBatch.from_records``: with the threads it takes by itself, and in one."""

    setting: Setting
    size: str
    records_per_s: float
    records_per_s_one_thread: float


def decode_speed(samples: Sequence[Sample], setting: Setting, keep_ratio: float, rounds: int) -> Speed:
    """Decode batches of :data:`BATCH` exemplars, the samples over and over."""
    made = [exemplar(sample, sample.keep_masks[keep_ratio], setting.codec) for sample in samples]
    records = [made[place % len(made)] for place in range(BATCH)]
    height, width, _ = samples[0].picture.image.shape
    return Speed(
        setting,
        f"{height}x{width} px" if len({sample.picture.grid for sample in samples}) == 1 else "mixed grids",
        _per_second(records, None, rounds),
        _per_second(records, 1, rounds),
    )


def _per_second(records: Sequence[Record], threads: int | None, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        # New ones each time, as they come off the wire: a record remembers its mask once that was unpacked.
        fresh = [replace(record) for record in records]
        started = time.perf_counter()
        ReplayBatch.from_records(fresh, decode_threads=threads)
        seconds.append(time.perf_counter() - started)
    return len(records) / statistics.median(seconds[1:])
