"""What is measured: an epoch's or so many batches of each buffer, per batch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader, TensorDataset
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from benchmarks.adapters.found import BATCH, Contest, Run
from benchmarks.common.rounds import interleave, ratio, timed
from client import MemoryClient
from learner.adapters.avalanche import StoredExemplars
from learner.adapters.mammoth import StoredExamples
from learner.adapters.pycil import StoredMemory
from learner.adapters.torchrl import StoredReplayBuffer, StoredStorage

from avalanche.benchmarks import nc_benchmark  # isort: skip  # after the adapter, which silences its warnings
from avalanche.training.storage_policy import ReservoirSamplingBuffer  # isort: skip

SIDES = (32, 64)
_BATCHES = 15
_BUDGET = 10**9


Batches = Callable[[], object]
"""Takes as many batches as there are in :data:`_BATCHES`."""


def measure(memory: MemoryClient, items: int, rounds: int, mammoth: Path | None) -> Run:
    """Pictures are noise: what is decoded already costs the same whatever it shows."""
    run = Run(items, rounds)
    makers = {"Avalanche": _avalanche, "PyCIL": _pycil, "torchrl": _torchrl}
    if mammoth is not None:
        sys.path.append(str(mammoth))
        makers["Mammoth"] = _mammoth
    for side in SIDES:
        for library, make in makers.items():
            buffer = memory.create_buffer(
                f"{library}-{side}".lower(),
                budget_bytes=_BUDGET,
                eviction="reject" if library == "torchrl" else "class_balanced",
            )
            own, ours = make(buffer, items, side)
            tasks = {name: _per_batch(work) for name, work in (("own", own), ("ours", ours))}
            figures = interleave(tasks, rounds=rounds)
            run.contests.append(
                Contest(
                    library,
                    side,
                    1e3 * figures["own"].median,
                    1e3 * figures["ours"].median,
                    ratio(figures["ours"], figures["own"]),
                )
            )
            print(run.contests[-1], file=sys.stderr)
    return run


def _per_batch(work: Batches) -> Callable[[], float]:
    return lambda: timed(work) / _BATCHES


def _pictures(items: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (items, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _through_a_loader(data: Any) -> None:
    batches = iter(DataLoader(data, batch_size=BATCH, sampler=torch.randint(len(data), (BATCH * _BATCHES,)).tolist()))
    for _ in batches:
        pass


def _avalanche(buffer: Any, items: int, side: int) -> tuple[Batches, Batches]:
    data: Any = TensorDataset(_pictures(items, side).float() / 255, torch.arange(items) % 10)
    data.targets = (torch.arange(items) % 10).tolist()
    experience = nc_benchmark(data, data, n_experiences=1, task_labels=False).train_stream[0]
    policies = (
        ReservoirSamplingBuffer(items),
        StoredExemplars(ReservoirSamplingBuffer(items), buffer, like=experience.dataset),
    )
    for policy in policies:
        policy.post_adapt(None, experience)
    own, ours = (policy.buffer for policy in policies)
    return (lambda: _through_a_loader(own)), (lambda: _through_a_loader(ours))


class _Learner:
    """What PyCIL's learners have in common here: an array, read once for an epoch."""

    def __init__(self) -> None:
        self._cur_task = 0
        self._data_memory, self._targets_memory = np.array([]), np.array([])

    def build_rehearsal_memory(self, data_manager: Any, per_class: int) -> None:
        self._data_memory, self._targets_memory = data_manager


class _Stored(StoredMemory, _Learner):
    pass


def _pycil(buffer: Any, items: int, side: int) -> tuple[Batches, Batches]:
    data = _pictures(items, side).permute(0, 2, 3, 1).contiguous().numpy()
    own, ours = _Learner(), _Stored(memory=buffer)
    for learner in (own, ours):
        learner.build_rehearsal_memory((data, np.arange(items) % 10), items)

    class Rows(torch.utils.data.Dataset[Any]):
        def __init__(self, learner: Any) -> None:
            self.data, self.targets = learner._data_memory, learner._targets_memory

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, place: int) -> Any:
            return torch.from_numpy(self.data[place]).permute(2, 0, 1).float().div_(255), int(self.targets[place])

    return (lambda: _through_a_loader(Rows(own))), (lambda: _through_a_loader(Rows(ours)))


def _torchrl(buffer: Any, items: int, side: int) -> tuple[Batches, Batches]:
    data = TensorDict({"pixels": _pictures(items, side), "label": torch.arange(items) % 10}, batch_size=[items])
    own = TensorDictReplayBuffer(storage=LazyTensorStorage(items), batch_size=BATCH)
    ours = StoredReplayBuffer(storage=StoredStorage(items, buffer), batch_size=BATCH)
    for replay in (own, ours):
        for part in data.split(100):
            replay.extend(part)
    return (lambda: [own.sample() for _ in range(_BATCHES)]), (lambda: [ours.sample() for _ in range(_BATCHES)])


def _mammoth(buffer: Any, items: int, side: int) -> tuple[Batches, Batches]:
    mammoths: Any = importlib.import_module("utils.buffer").Buffer
    stored = type("Stored", (StoredExamples, mammoths), {})
    own, ours = mammoths(items), stored(items, memory=buffer)
    for one in (own, ours):
        one.add_data(_pictures(items, side).float() / 255, labels=torch.arange(items) % 10)
    return (lambda: [own.get_data(BATCH) for _ in range(_BATCHES)]), (
        lambda: [ours.get_data(BATCH) for _ in range(_BATCHES)]
    )
