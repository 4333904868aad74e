"""A training step with replay from the service, over the same step with the same batches as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.rounds import interleave, timed
from benchmarks.common.service import Service
from benchmarks.cost.demo import SEED, Demo
from benchmarks.cost.run import Replay
from client import Buffer, MemoryClient
from client.dataset import ReplayDataset
from learner.memory.exemplars import Stores, to_replay
from memory_format import Record

KINDS: Mapping[str, tuple[Stores, dict[str, Any] | None]] = {
    "the demo's, masked": ("masked", None),
    "whole pictures, lossless": ("full", {"id": "em_zstd"}),
}
"""What is stored of the old samples, and in which codec; None: the demo's."""


def measure(place: Path, begun: Demo, *, rounds: int, tick: Callable[[str], object]) -> dict[str, Replay]:
    """The same with records of each kind.

    Args:
        place: where the service's stores lie.
    """
    found = {}
    with Service(place / "memory") as service, MemoryClient(service.url) as client:
        for number, (name, (stores, codec)) in enumerate(KINDS.items()):
            tick(f"replay: {name}")
            records = begun.exemplars(stores, codec)
            buffer = client.create_buffer(f"cost-{number}", budget_bytes=2**26)
            buffer.push(records)
            found[name] = _measured(begun, buffer, records, rounds)
    return found


def _measured(begun: Demo, buffer: Buffer, records: Sequence[Record], rounds: int) -> Replay:
    size = begun.config.train.batch_size

    def dataset() -> ReplayDataset:
        return ReplayDataset(buffer, size, seed=SEED, num_steps=begun.num_steps, strategy="class_balanced")

    held = [to_replay(batch) for batch in dataset()]
    waits: list[float] = []

    def from_service() -> None:
        source = dataset()
        batches = iter(source)
        try:
            begun.epoch(map(to_replay, batches))
        finally:
            batches.close()
        waits.append(source.wait_seconds)

    figures = interleave(
        {"service": lambda: timed(from_service), "tensors": lambda: timed(lambda: begun.epoch(held))}, rounds=rounds
    )
    service = figures["service"]
    # The warming turns do not count.
    waited = sum(waits[-rounds:]) / sum(service.seconds)
    mean = float(np.mean([record.charge for record in records]))
    return Replay(mean, begun.num_steps, service, figures["tensors"], waited)
