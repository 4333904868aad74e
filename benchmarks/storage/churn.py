"""Pushing many times the budget: how many bytes reach the disk, and how much of it the store takes up."""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.common.page_cache import disk_bytes
from benchmarks.common.records import NUM_CLASSES, Maker, with_ranks
from benchmarks.common.service import Service
from benchmarks.storage.plan import Churn
from benchmarks.storage.stages import Tick

_WATCH_SECONDS = 0.002
_BUFFER = "churn"
_MOST_RANK = 2**31


@dataclass(frozen=True)
class ChurnResult:
    """What a run did. Bytes of records are charges: what the budget counts."""

    label: str
    budget_bytes: int
    disk_limit_bytes: int
    pushes: int
    pushed_bytes: int
    accepted_bytes: int
    written_bytes: int | None
    """By the service's process, to storage; None where the system does not say."""
    highest_disk_bytes: int
    """The most that all files of the store were long together, at any moment that was looked at."""
    final_disk_bytes: int
    looks: int
    resident_before: int
    resident_after: int
    seconds: float

    @property
    def amplification_of_accepted(self) -> float | None:
        return None if self.written_bytes is None else self.written_bytes / self.accepted_bytes

    @property
    def amplification_of_pushed(self) -> float | None:
        return None if self.written_bytes is None else self.written_bytes / self.pushed_bytes

    @property
    def disk_over_limit(self) -> float:
        return self.highest_disk_bytes / self.disk_limit_bytes


class DiskWatch:
    """Looks at a directory's size again and again from a thread, and remembers the highest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="disk-watch", daemon=True)
        self.highest = 0
        self.looks = 0

    def _watch(self) -> None:
        while not self._stopped.wait(_WATCH_SECONDS):
            self._look()

    def _look(self) -> None:
        self.highest = max(self.highest, disk_bytes(self._directory)[0])
        self.looks += 1

    def __enter__(self) -> DiskWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._look()


def run_churn(churn: Churn, maker: Maker, directory: Path, tick: Tick) -> ChurnResult:
    """Push ``churn.times_budget`` times the budget through a service, as its client does: with a key each."""
    rng = np.random.default_rng(0)
    data = directory / "store"
    pushed = accepted = pushes = 0
    with Service(data) as service:
        limit = service.create_buffer(_BUFFER, churn.budget_bytes)
        written_before, resident_before = service.written_bytes(), service.resident_bytes()
        started = time.perf_counter()
        with DiskWatch(data) as watch:
            while pushed < churn.times_budget * churn.budget_bytes:
                size = churn.push_records
                class_ids = rng.integers(0, NUM_CLASSES, size)
                if churn.ranks == "random":
                    ranks = rng.integers(0, _MOST_RANK, size)
                else:
                    ranks = _MOST_RANK - pushes * size - np.arange(size)
                batch = with_ranks(maker.batch(pushes * size, size), class_ids, ranks)
                answer = service.push(_BUFFER, batch.arrow, uuid.uuid4().hex)
                kept = answer["exemplar_ids"]
                charges = [record.charge for record in batch.records]
                pushed += sum(charges)
                accepted += sum(charge for charge, given in zip(charges, kept, strict=True) if given is not None)
                pushes += 1
                if pushes % 50 == 0:
                    share = pushed / (churn.times_budget * churn.budget_bytes)
                    tick(f"churn, {churn.label}: {share:.0%}")
        seconds = time.perf_counter() - started
        os.sync()
        written_after = service.written_bytes()
        resident_after = service.resident_bytes()
    written = None if written_before is None or written_after is None else written_after - written_before
    return ChurnResult(
        label=churn.label,
        budget_bytes=churn.budget_bytes,
        disk_limit_bytes=limit,
        pushes=pushes,
        pushed_bytes=pushed,
        accepted_bytes=accepted,
        written_bytes=written,
        highest_disk_bytes=watch.highest,
        final_disk_bytes=disk_bytes(data)[0],
        looks=watch.looks,
        resident_before=resident_before,
        resident_after=resident_after,
        seconds=seconds,
    )
