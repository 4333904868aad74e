"""What a million records cost: sampling latency, opening, and memory of the service."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.page_cache import CAN_FORGET, forget, recall
from benchmarks.common.processes import ROOT, python_module
from benchmarks.common.records import Maker
from benchmarks.common.rounds import Figure, interleave, ratio, timed
from benchmarks.common.service import Service
from benchmarks.storage.contestants.ours import BUFFER, STRATEGIES, InProcess, OverHttp
from benchmarks.storage.plan import Plan
from benchmarks.storage.stages import Field, Tick

FEW = "few"
_OPENINGS = 3
_SETTLE_SECONDS = 0.5


@dataclass
class Scale:
    """What one store of many records, and a buffer of few equal ones beside them, showed."""

    records: int
    latency: dict[str, Figure] = field(default_factory=dict)
    """Seconds of a draw by ``"<place>, <strategy>, few"`` or ``"..., many"``."""
    latency_ratio: dict[str, float] = field(default_factory=dict)
    """Many over few, by ``"<place>, <strategy>"``."""
    open_seconds: list[float] = field(default_factory=list)
    open_cold_seconds: float | None = None
    empty_resident: int = 0
    """Bytes of a service on an empty store."""
    opened_resident: int = 0
    """Bytes of a fresh service that has opened the store."""
    sampled_resident: int = 0
    """The same after drawing with every strategy."""
    payload_bytes: int = 0

    @property
    def index_bytes_per_record(self) -> float:
        return (self.opened_resident - self.empty_resident) / self.records

    @property
    def index_bytes_per_record_sampled(self) -> float:
        return (self.sampled_resident - self.empty_resident) / self.records


def add_few(plan: Plan, maker: Maker) -> Callable[[Field], object]:
    """Puts the buffer of few records into the store that holds many."""
    return lambda contestants: contestants.in_process.push_to(FEW, maker.batch(plan.many, plan.few))


def measure_scale(scale: Scale, plan: Plan, maker: Maker, contestants: Field, tick: Tick) -> None:
    """Fill in ``scale``; leaves the in-process store closed and open again."""
    scale.payload_bytes = maker.mean_body * plan.many
    _latency(scale, plan, contestants, tick)
    store = contestants.in_process.directory
    contestants.in_process.close()
    try:
        _opening(scale, store, tick)
        _memory(scale, plan, store, contestants.directory / "empty" / "store", tick)
    finally:
        contestants.in_process.reopen()


def _latency(scale: Scale, plan: Plan, contestants: Field, tick: Tick) -> None:
    here, served = contestants.in_process, contestants.over_http.service
    tasks: dict[str, Callable[[], float]] = {}
    for strategy in STRATEGIES:
        for size, name in (("few", FEW), ("many", BUFFER)):
            tasks[f"{InProcess.name}, {strategy}, {size}"] = lambda s=strategy, n=name: timed(  # type: ignore[misc]
                lambda: here.sample_from(n, plan.batch, s)
            )
            tasks[f"{OverHttp.name}, {strategy}, {size}"] = lambda s=strategy, n=name: timed(  # type: ignore[misc]
                lambda: served.sample(n, plan.batch, s)
            )
    scale.latency = interleave(
        tasks,
        rounds=plan.rounds + 2,
        round_seconds=plan.turn_seconds,
        tick=lambda name: tick(f"latency: {name}"),
        before_turn=lambda name: recall(
            (contestants.in_process if name.startswith(InProcess.name) else contestants.over_http).directory
        ),
    )
    for place in (InProcess.name, OverHttp.name):
        for strategy in STRATEGIES:
            key = f"{place}, {strategy}"
            scale.latency_ratio[key] = ratio(scale.latency[f"{key}, many"], scale.latency[f"{key}, few"])


def _opening(scale: Scale, store: Path, tick: Tick) -> None:
    for _ in range(_OPENINGS):
        tick("opening in a fresh process")
        recall(store)
        scale.open_seconds.append(_open(store))
    if CAN_FORGET:
        tick("opening, cold")
        forget(store)
        scale.open_cold_seconds = _open(store)


def _open(store: Path) -> float:
    done = subprocess.run(
        python_module("benchmarks.storage.opening", str(store)), check=True, capture_output=True, text=True, cwd=ROOT
    )
    return float(json.loads(done.stdout)["seconds"])


def _memory(scale: Scale, plan: Plan, store: Path, empty: Path, tick: Tick) -> None:
    tick("memory of the service")
    with Service(empty) as service:
        service.create_buffer(FEW, 2**30)
        time.sleep(_SETTLE_SECONDS)
        scale.empty_resident = service.resident_bytes()
    with Service(store) as service:
        time.sleep(_SETTLE_SECONDS)
        scale.opened_resident = service.resident_bytes()
        for strategy in STRATEGIES:
            for _ in range(3):
                service.sample(BUFFER, plan.batch, strategy)
        time.sleep(_SETTLE_SECONDS)
        scale.sampled_resident = service.resident_bytes()


def open_median(scale: Scale) -> float:
    """Seconds to open the store, page cache warm."""
    return statistics.median(scale.open_seconds)
