"""How much the storage benchmark measures, and who takes part."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.common.machine import available_memory
from benchmarks.storage.contestants.files import Lmdb, RawFile
from benchmarks.storage.contestants.peer import Peer

RAW, LMDB, TORCHRL, REVERB, JPEGS, OURS = "raw", "lmdb", "torchrl", "reverb", "jpegs", "ours"
CONTESTANTS = (RAW, LMDB, TORCHRL, REVERB, JPEGS, OURS)

_GIB = 2**30
# A hundred thousand records of 20 kB, as every contestant stores them: on disk, and in the page cache at once.
_MEDIUM_DISK, _MEDIUM_MEMORY = 24 * _GIB, 17 * _GIB


@dataclass(frozen=True)
class Churn:
    """A run that pushes many times the budget.

    Args:
        push_records: records a push.
        ranks: ``random``: a full buffer refuses most of what comes; ``rising``: what comes is always better
            than what is there, so all of it is accepted and as much is evicted.
    """

    label: str
    budget_bytes: int
    push_records: int
    ranks: str
    times_budget: int = 20


@dataclass(frozen=True)
class Plan:
    """Sizes and repeats of one run."""

    directory: Path
    batch: int = 256
    rounds: int = 7
    cold_rounds: int = 5
    turn_seconds: float = 0.25
    """What a contestant's turn lasts when one draw is shorter."""
    push_sizes: tuple[int, ...] = (1, 32, 1000)
    record_bytes: int = 20_000
    num_pictures: int = 48
    few: int = 1_000
    medium: int = 100_000
    medium_bytes: int = 20_000
    many: int = 1_000_000
    fill_records: int = 1_000
    churns: tuple[Churn, ...] = field(
        default=(
            Churn("pushes of 32, random ranks", 64 << 20, 32, "random"),
            Churn("pushes of 32, rising ranks", 64 << 20, 32, "rising"),
            Churn("pushes of 1, random ranks", 16 << 20, 1, "random"),
        )
    )

    @classmethod
    def quick(cls, directory: Path) -> Plan:
        """The same measurements in seconds: to see that they work, not what they give."""
        return cls(
            directory,
            batch=16,
            rounds=3,
            cold_rounds=1,
            turn_seconds=0.0,
            push_sizes=(1, 8),
            record_bytes=2_000,
            num_pictures=4,
            few=40,
            medium=80,
            medium_bytes=2_000,
            many=400,
            fill_records=40,
            churns=(
                Churn("pushes of 8, random ranks", 128 << 10, 8, "random"),
                Churn("pushes of 1, random ranks", 16 << 10, 1, "random"),
            ),
        )

    def fitted(self) -> tuple[Plan, str | None]:
        """The plan with smaller records in the medium store where disk or memory do not suffice, and why."""
        disk, memory = shutil.disk_usage(self.directory).free, available_memory()
        needed = self.medium * self.medium_bytes / 2e9
        if disk >= needed * _MEDIUM_DISK and memory >= needed * _MEDIUM_MEMORY:
            return self, None
        why = (
            f"{self.medium:,} records of {self.medium_bytes // 1000} kB need {needed * _MEDIUM_DISK / _GIB:.0f} GiB of "
            f"disk and {needed * _MEDIUM_MEMORY / _GIB:.0f} GiB of memory, {disk / _GIB:.0f} and {memory / _GIB:.0f} "
            "are free: 2 kB instead"
        )
        return replace(self, medium_bytes=2_000), why


def peers(wanted: Sequence[str], note: Callable[[str], object]) -> tuple[list[type[Peer]], dict[str, str]]:
    """Contestants besides ours that can take part here, and why the others cannot."""
    found: list[type[Peer]] = []
    skipped: dict[str, str] = {}
    if RAW in wanted:
        found.append(RawFile)
    if LMDB in wanted:
        if importlib.util.find_spec("lmdb"):
            found.append(Lmdb)
        else:
            skipped[LMDB] = "the package lmdb is not installed (pip install -e '.[bench]')"
    if TORCHRL in wanted:
        if importlib.util.find_spec("torchrl"):
            from benchmarks.storage.contestants.torchrl_memmap import TorchRL, TorchRLPixels

            found += [TorchRL, TorchRLPixels]
        else:
            skipped[TORCHRL] = "the package torchrl is not installed (pip install -e '.[bench]')"
    if JPEGS in wanted:
        if importlib.util.find_spec("torch"):
            from benchmarks.storage.contestants.jpegs import JpegFolder

            found.append(JpegFolder)
        else:
            skipped[JPEGS] = "the package torch is not installed (pip install -e '.[bench]')"
    if REVERB in wanted:
        from benchmarks.storage.contestants.dm_reverb import Reverb, ReverbMissingError, ReverbPixels, prepare

        try:
            note("dm-reverb: looking for its environment, or installing it")
            Reverb.python = prepare()
            found += [Reverb, ReverbPixels]
        except ReverbMissingError as error:
            skipped[REVERB] = str(error)
    skipped |= {name: "not asked for" for name in CONTESTANTS if name not in wanted}
    return found, skipped
