"""A learner of PyCIL has the same memory over the service as in its own arrays.

With ``EXEMPLAR_MEMORY_PYCIL`` naming a checkout of PyCIL or PILOT, the learner is theirs, else one of the same
signatures.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client import MemoryClient
from learner.adapters.pycil import Recorder, StoredMemory
from memory_format import BudgetError, WebPLossless
from tests.conftest import Service

sys.path += filter(None, [os.environ.get("EXEMPLAR_MEMORY_PYCIL")])
BaseLearner: Any = importlib.import_module(
    "models.base" if os.environ.get("EXEMPLAR_MEMORY_PYCIL") else "tests.adapters.pycil_learner"
).BaseLearner

# The learner of a checkout has four, however many cores there are.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
_numbers = itertools.count()
LOSSLESS = Recorder(WebPLossless())
ARGS = {"memory_size": 12, "device": ["cpu"]}


class Stored(StoredMemory, BaseLearner):  # type: ignore[misc]
    """As a user of PyCIL has it."""


class Network:
    """Features of a picture: its pixels by rows."""

    feature_dim = 8

    def eval(self) -> None:
        pass

    def extract_vector(self, pictures: Any) -> Any:
        return pictures.mean((2, 3))

    def features(self, row: Any) -> Any:
        return np.asarray(Image.open(row) if isinstance(row, str) else row).astype(np.float64).mean((1, 2))


class Rows(torch.utils.data.Dataset[Any]):
    """Samples as PyCIL's loaders have them."""

    def __init__(self, data: Any, targets: Any) -> None:
        self.data, self.targets = data, targets

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> Any:
        row = self.data[place]
        pixels = np.array(Image.open(row) if isinstance(row, str) else row)
        return place, torch.from_numpy(pixels).float(), torch.tensor(int(self.targets[place]))


class DataManager:
    """Six classes of ten pictures, as arrays or as files."""

    def __init__(self, folder: Path | None = None) -> None:
        self.data: Any = np.random.default_rng(0).integers(0, 256, (60, 8, 12, 3), dtype=np.uint8)
        self.targets = np.arange(60) % 6
        if folder is not None:
            paths = [folder / f"{number}.png" for number in range(60)]
            for path, pixels in zip(paths, self.data, strict=True):
                Image.fromarray(pixels).save(path)
            self.data = np.array([str(path) for path in paths])

    def get_dataset(self, indices: Any, source: str, mode: str, appendent: Any = None, ret_data: bool = False) -> Any:
        chosen = np.isin(self.targets, indices)
        data, targets = self.data[chosen], self.targets[chosen]
        if appendent is not None and len(appendent):
            data = np.concatenate([data, appendent[0]]) if len(data) else appendent[0]
            targets = np.concatenate([targets, appendent[1]])
        rows = Rows(data, targets)
        return (data, targets, rows) if ret_data else rows


@pytest.fixture
def memory(service: Service) -> Iterator[MemoryClient]:
    with MemoryClient(service.url) as client:
        yield client


def stored(memory: MemoryClient, budget_bytes: int = 10**6, args: Any = None, **options: Any) -> Any:
    made = memory.create_buffer(f"pycil-{next(_numbers)}", budget_bytes=budget_bytes)
    return Stored(args or ARGS, memory=made, **{"recorder": LOSSLESS, **options})


def learn(learner: Any, data: DataManager, tasks: range = range(3)) -> Any:
    """Tasks of two classes each; the learner again."""
    learner._network, learner._device = Network(), "cpu"
    for task in tasks:
        learner._cur_task, learner._known_classes, learner._total_classes = task, 2 * task, 2 * task + 2
        learner.build_rehearsal_memory(data, learner.samples_per_class)
        learner.after_task()
    return learner


def assert_same_memory(one: Any, other: Any) -> None:
    assert one.exemplar_size == other.exemplar_size > 0
    for values, again in zip(one._get_memory(), other._get_memory(), strict=True):
        assert values.dtype == again.dtype
        assert np.array_equal(values, again)


@pytest.mark.parametrize("args", [ARGS, {**ARGS, "fixed_memory": True, "memory_per_class": 3}])
def test_the_memory_is_that_of_the_learner_itself(memory: MemoryClient, args: Any) -> None:
    own, ours = learn(BaseLearner(args), DataManager()), learn(stored(memory, args=args), DataManager())
    assert_same_memory(own, ours)
    held = list(ours.exemplars.buffer.query())
    assert [info.exemplar_id for info in held] == sorted(ours._ids)
    assert {info.exemplar_id: info.class_id for info in held} == dict(
        zip(ours._ids, ours._targets_memory.tolist(), strict=True)
    )
    assert ours._pending is None


def test_what_a_method_writes_directly_is_stored_after_the_task(memory: MemoryClient) -> None:
    ours = learn(stored(memory, cache_bytes=0), DataManager())
    expected = ours._data_memory[1::2]
    ours._data_memory, ours._targets_memory = ours._data_memory[1::2], ours._targets_memory[1::2]
    assert np.array_equal(ours._data_memory, expected)
    ours.after_task()
    assert np.array_equal(ours._data_memory, expected)
    assert ours.exemplars.buffer.info().num_records == len(expected) == 6


def test_a_push_that_failed_is_made_up_for(memory: MemoryClient) -> None:
    data = DataManager()
    data.data[data.targets < 2] = np.arange(20, dtype=np.uint8)[:, None, None, None]  # small ones first
    made = memory.create_buffer(f"pycil-{next(_numbers)}", budget_bytes=3000, eviction="reject")
    own, ours = learn(BaseLearner(ARGS), data, range(2)), Stored(ARGS, memory=made, recorder=LOSSLESS)
    with pytest.raises(BudgetError):
        learn(ours, data)
    assert ours._cur_task == 1
    made.configure(budget_bytes=10**6)
    ours.after_task()
    assert made.info().num_records == 12
    assert_same_memory(own, ours)


def test_the_same_picture_may_be_there_twice(memory: MemoryClient) -> None:
    data = DataManager()
    data.data[6:12] = data.data[:6]
    own, ours = learn(BaseLearner(ARGS), data), learn(stored(memory), data)
    assert_same_memory(own, ours)
    assert ours.exemplars.buffer.info().num_records == own.exemplar_size


def test_lossy_exemplars_are_known_again_and_bytes_cut_each_class_from_behind(memory: MemoryClient) -> None:
    said: list[str] = []
    ours = learn(stored(memory, 1400, recorder=None, report=said.append), DataManager())
    held = list(ours.exemplars.buffer.query())
    assert 0 < ours.exemplar_size == len(held) < 12
    for class_id in set(ours._targets_memory.tolist()):
        ranks = sorted(info.rank for info in held if info.class_id == class_id)
        assert ranks == list(range(len(ranks)))
    assert [line.split(":")[0] for line in said] == ["phase 0", "phase 1", "phase 2"]
    assert min(info.phase for info in held) == 0


def test_data_that_are_paths_stay_paths(memory: MemoryClient, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "exemplars").mkdir()
    by_path = DataManager(tmp_path / "data")
    own = learn(BaseLearner(ARGS), DataManager())
    ours = learn(stored(memory, folder=tmp_path / "exemplars"), by_path)
    paths, targets = ours._get_memory()
    assert paths.dtype.kind == "U"
    assert np.array_equal(np.stack([np.array(Image.open(path)) for path in paths]), own._data_memory)
    assert np.array_equal(targets, own._targets_memory)
    with pytest.raises(ValueError, match="give StoredMemory a folder="):
        learn(stored(memory), by_path)


def test_a_run_that_goes_on_has_the_memory_it_would_have_had(memory: MemoryClient) -> None:
    data = DataManager()
    ours = learn(stored(memory), data, range(2))
    saved = io.BytesIO()
    torch.save(ours.state_dict(), saved)
    assert len(saved.getvalue()) < 4000
    learn(ours, data, range(2, 3))

    saved.seek(0)
    again = Stored(ARGS, memory=ours.exemplars.buffer, recorder=LOSSLESS)
    again.load_state_dict(torch.load(saved))
    assert_same_memory(ours, learn(again, data, range(2, 3)))
    assert again.exemplars.buffer.name != ours.exemplars.buffer.name
    with pytest.raises(ValueError, match="no state of StoredMemory"):
        again.load_state_dict({})
