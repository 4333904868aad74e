"""A data set's state: what a run goes on with, in a plain loop, torch's loader and torchdata's."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.stateful import Stateful

from client import Buffer, MemoryClient
from client.dataset import ReplayDataset
from client.tensors import TensorBatch
from memory_format import ConflictError
from tests.client.samples import make_many

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create . worker processes:UserWarning"),
    # torchdata 0.11 beside torch 2.14.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]

WORKERS = [
    pytest.param({"num_workers": 0}, id="0"),
    pytest.param({"num_workers": 1}, id="1"),
    pytest.param({"num_workers": 2, "persistent_workers": True}, id="2 persistent"),
    pytest.param({"num_workers": 3}, id="3"),
    pytest.param({"num_workers": 4, "persistent_workers": True, "prefetch_factor": 3}, id="4 persistent"),
]
NUM_STEPS = 5


@pytest.fixture
def filled(buffer: Buffer) -> Buffer:
    buffer.push(make_many(40))
    return buffer


def dataset_of(buffer: Buffer, **settings: Any) -> ReplayDataset:
    return ReplayDataset(buffer, 4, **{"seed": 3, "num_steps": NUM_STEPS, **settings})


def seen(batch: TensorBatch) -> tuple[int, list[int], int]:
    return int(batch["step"]), batch["exemplar_id"].tolist(), int(batch["patches"].sum())


def undisturbed(buffer: Buffer, count: int) -> list[tuple[int, list[int], int]]:
    return [
        (step, batch.exemplar_id.tolist(), int(batch.patches.sum()))
        for step, batch in ((step, buffer.sample(4, seed=3, step=step)) for step in range(count))
    ]


def epochs(loader: Iterable[TensorBatch]) -> Iterator[TensorBatch]:
    """Epoch after epoch, as a training script iterates."""
    while True:
        yield from loader


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint keeps it: constant, small, and plain values."""
    text = json.dumps(state)
    assert len(text) < 1000
    return json.loads(text)  # type: ignore[no-any-return]


@pytest.mark.parametrize("taken", [0, 1, 3, 5, 7, 10, 12])
def test_a_plain_loop_goes_on(filled: Buffer, taken: int) -> None:
    expected = undisturbed(filled, 16)
    first = dataset_of(filled)
    batches = epochs(first)
    found = [seen(batch) for batch in itertools.islice(batches, taken)]
    state = stored(first.state_dict())
    batches.close()  # type: ignore[attr-defined]
    second = dataset_of(filled, prefetch=1, threads=2)
    second.load_state_dict(state)
    assert stored(second.state_dict()) == state, "loaded and not used, it is the same"
    batches = epochs(second)
    found += [seen(batch) for batch in itertools.islice(batches, 2)]
    state = stored(second.state_dict())
    batches.close()  # type: ignore[attr-defined]
    third = dataset_of(filled)
    third.load_state_dict(state)
    found += [seen(batch) for batch in itertools.islice(epochs(third), 16 - len(found))]
    assert found == expected


def test_it_counts_what_was_given_and_not_what_was_fetched(filled: Buffer) -> None:
    dataset = dataset_of(filled, prefetch=4)
    batches = iter(dataset)
    assert dataset.state_dict()["next_step"] == 0
    for step in range(3):
        next(batches)
        assert dataset.state_dict()["next_step"] == step + 1
    batches.close()
    assert dataset.state_dict()["next_step"] == 3, "a loop that was left keeps its place"


@pytest.mark.parametrize("how", WORKERS)
@pytest.mark.parametrize("taken", [0, 1, 4, 5, 8])
def test_torchdatas_loader_goes_on(filled: Buffer, how: dict[str, Any], taken: int) -> None:
    expected = undisturbed(filled, 14)
    found: list[Any] = []
    state: dict[str, Any] = {}
    for count in (taken, 2, 14 - taken - 2):
        torch.manual_seed(0)  # as scripts do when they start, also to go on
        loader = StatefulDataLoader(dataset_of(filled), batch_size=None, **how)
        loader.load_state_dict(state)
        found += [seen(batch) for batch in itertools.islice(epochs(loader), count)]
        state = pickle.loads(pickle.dumps(loader.state_dict()))
        shut(loader)
    assert found == expected


def shut(loader: StatefulDataLoader[Any]) -> None:
    """End its workers, which otherwise ends with the garbage."""
    if loader.num_workers and loader._iterator is not None:
        loader._iterator._shutdown_workers()


@pytest.mark.parametrize("how", WORKERS[:3])
def test_an_epoch_that_has_ended_has_ended(filled: Buffer, how: dict[str, Any]) -> None:
    expected = undisturbed(filled, 15)
    loader = StatefulDataLoader(dataset_of(filled), batch_size=None, **how)
    found = [seen(batch) for _ in range(2) for batch in loader]
    assert found == expected[:10]
    state = loader.state_dict()
    shut(loader)
    again = StatefulDataLoader(dataset_of(filled), batch_size=None, **how)
    again.load_state_dict(state)
    assert [seen(batch) for batch in again] == expected[10:]
    shut(again)


@pytest.mark.parametrize("how", WORKERS[1:3])
def test_a_plain_loader_goes_on_after_a_batch(filled: Buffer, how: dict[str, Any]) -> None:
    expected = undisturbed(filled, 15)
    dataset = dataset_of(filled)
    loader = DataLoader(dataset, batch_size=None, **how)
    found: list[Any] = []
    for batch in itertools.islice(loader, 3):
        found.append(seen(batch))
    with pytest.raises(RuntimeError, match="after=batch"):
        dataset.state_dict()
    state = stored(dataset.state_dict(after=batch))
    del loader
    # Into another number of workers, and by who says which epoch it is.
    dataset = dataset_of(filled)
    dataset.load_state_dict(state)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        found += [seen(batch) for batch in loader]
    assert found == expected
    dataset.set_epoch(1)
    assert dataset.state_dict()["next_step"] == NUM_STEPS, "asked for since, a new epoch is next"


def test_after_the_last_batch_of_an_epoch_nothing_of_it_is_left(filled: Buffer) -> None:
    dataset = dataset_of(filled)
    *_, last = dataset
    again = dataset_of(filled)
    again.load_state_dict(dataset.state_dict(after=last))
    assert list(again) == []
    assert [int(batch["step"]) for batch in again] == [5, 6, 7, 8, 9]
    # After the loop, the next epoch is next.
    again.load_state_dict(dataset.state_dict())
    assert [int(batch["step"]) for batch in again] == [5, 6, 7, 8, 9]


def test_the_epoch_that_was_loaded_can_begin_anew(filled: Buffer) -> None:
    dataset = dataset_of(filled)
    state = dataset.state_dict() | {"epoch": 2, "next_step": 13}
    asked: list[tuple[Callable[[int], None], int, int]] = [
        (dataset.set_epoch, 2, 13),
        (dataset.set_epoch, 1, 5),
        (dataset.seek, 10, 10),
    ]
    for ask, number, first in asked:
        dataset.load_state_dict(state)
        ask(number)
        assert int(next(iter(dataset))["step"]) == first
    dataset.set_epoch(2)
    assert int(next(iter(dataset))["step"]) == 10


def test_a_run_may_become_longer(filled: Buffer) -> None:
    dataset = dataset_of(filled)
    batches = iter(dataset)
    next(batches)
    for num_steps, rest in ((8, range(1, 8)), (3, range(1, 3)), (None, range(1, 30))):
        longer = dataset_of(filled, num_steps=num_steps)
        longer.load_state_dict(dataset.state_dict())
        assert [int(batch["step"]) for batch in itertools.islice(longer, 29)] == list(rest)
    later = dataset_of(filled, start_step=3)
    with pytest.raises(ValueError, match=r"next_step must be .* in 3\.\."):
        later.load_state_dict(dataset.state_dict())
    batches.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_going_on_costs_no_draws(service: Any, num_workers: int) -> None:
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer(f"costs-{num_workers}", budget_bytes=1_000_000)
        buffer.push(make_many(20))
        loader = StatefulDataLoader(dataset_of(buffer, num_steps=300), batch_size=None, num_workers=num_workers)
        batches = iter(loader)
        for _ in range(200):
            next(batches)
        state = loader.state_dict()
        shut(loader)
        loader = StatefulDataLoader(dataset_of(buffer, num_steps=300), batch_size=None, num_workers=num_workers)
        loader.load_state_dict(state)
        before = buffer.stats().samples
        assert int(next(iter(loader))["step"]) == 200
        shut(loader)
        assert buffer.stats().samples - before <= 25, "what is fetched ahead, and not what was drawn before"


def test_iterating_is_cheap_until_a_batch_is_asked_for(filled: Buffer) -> None:
    dataset = dataset_of(filled)
    before = filled.stats().samples
    iterators = [iter(dataset) for _ in range(100)]
    assert filled.stats().samples == before
    assert int(next(iterators[50])["step"]) == 0, "and none of them has taken an epoch"
    iterators[50].close()


def test_it_is_stateful_by_torchdatas_protocol_and_no_iterator(filled: Buffer) -> None:
    dataset = dataset_of(filled)
    assert isinstance(dataset, Stateful)
    assert not isinstance(dataset, Iterator)


def test_a_state_is_small_whatever_is_drawn(memory: MemoryClient) -> None:
    large = ReplayDataset(
        Buffer(memory, "b" * 63),
        4000,
        seed=2**63 - 1,
        stream="s" * 64,
        start_step=2**61,
        num_steps=2**32,
        strategy="class_balanced",
        class_id=list(range(1000)),
        learner_id=[f"learner-{number:050}" for number in range(1000)],
        snapshot="s" * 63,
        repair_text=0.123456789012345,
    )
    large.seek(2**61 + 10**12)
    state = large.state_dict()
    assert len(json.dumps(state)) < 1000
    assert len(pickle.dumps(state)) < 1000
    other = copy.deepcopy(large)
    other.learner_id = other.learner_id[:-1]  # type: ignore[index]
    with pytest.raises(ValueError, match="filters"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2, which a newer version wrote"),
        ({"buffer": "other"}, "of buffer 'other', this data set reads 'b'"),
        ({"seed": 4}, "seed is 4 there and 3 here"),
        ({"stream": "x"}, "stream"),
        ({"strategy": "class_balanced"}, "strategy"),
        ({"batch_size": 8}, "batch_size is 8 there and 4 here"),
        ({"snapshot": "then"}, "snapshot is 'then' there and None here"),
        ({"replace": False}, "replace"),
        ({"workers": 2, "worker": 0}, "one of 2 worker processes, and this is a process that is no worker"),
        ({"next_step": -1}, "next_step"),
        ({"next_step": None}, "next_step"),
        ({"epoch": "1"}, "epoch"),
        ({"format": "1"}, "format"),
    ],
)
def test_a_state_of_something_else_is_refused(memory: MemoryClient, change: dict[str, Any], words: str) -> None:
    dataset = dataset_of(Buffer(memory, "b"))
    state = dataset.state_dict()
    with pytest.raises(ValueError, match=words):
        dataset.load_state_dict({**state, **change})
    assert dataset.state_dict() == state


@pytest.mark.parametrize("nothing", [None, {}, [], {"format": 1}, {"step": 3}])
def test_what_is_no_state_is_refused(memory: MemoryClient, nothing: Any) -> None:
    with pytest.raises(ValueError, match="state_dict"):
        dataset_of(Buffer(memory, "b")).load_state_dict(nothing)
    with pytest.raises(ValueError, match="after must be a batch"):
        dataset_of(Buffer(memory, "b")).state_dict(after=nothing or {})


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (2, 1)])
def test_another_number_of_workers_is_refused(filled: Buffer, before: int, after: int) -> None:
    loader = StatefulDataLoader(dataset_of(filled), batch_size=None, num_workers=before)
    next(iter(loader))
    state = loader.state_dict()
    shut(loader)
    other = StatefulDataLoader(dataset_of(filled), batch_size=None, num_workers=after)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match=f"one of {before} worker processes, and this is one of {after} w") as caught:
        iter(other)
    # Collected as garbage, its workers are waited for in vain, 5 seconds each.
    (made,) = {entry.frame.f_locals["self"] for entry in caught.traceback if entry.name == "_reset"}
    made._shutdown_workers()


def test_a_buffer_that_is_behind_its_state_is_another_one(filled: Buffer, memory: MemoryClient) -> None:
    dataset = dataset_of(filled)
    batches = iter(dataset)
    next(batches)
    batches.close()
    state = dataset.state_dict()
    assert state["version"] == filled.info().version == 1
    filled.push(make_many(1, first=50))
    dataset.load_state_dict(state)
    assert [int(batch["version"]) for batch in dataset] == [2] * 4, "it has changed since, and goes on"
    dataset.load_state_dict(state | {"version": 3})
    with pytest.raises(ConflictError, match=r"version 3.* is at 2: it is another one, or an older copy") as caught:
        next(iter(dataset))
    assert caught.value.code == "stale_version"
    dataset.seek(3)
    assert int(next(iter(dataset))["step"]) == 3


def test_a_snapshot_of_that_name_that_is_another_one_is_told(filled: Buffer) -> None:
    filled.take_snapshot("then")
    dataset = dataset_of(filled, snapshot="then")
    batches = iter(dataset)
    next(batches)
    batches.close()
    filled.push(make_many(1, first=50))
    dataset.load_state_dict(dataset.state_dict())
    assert {int(batch["version"]) for batch in dataset} == {1}
    state = dataset.state_dict()
    filled.delete_snapshot("then")
    filled.take_snapshot("then")
    dataset.load_state_dict(state)
    with pytest.raises(ConflictError, match=r"version 1, and .then. is at 2"):
        next(iter(dataset))


def test_one_version_alone(filled: Buffer) -> None:
    dataset = dataset_of(filled, version=1)
    assert len(list(dataset)) == NUM_STEPS
    with pytest.raises(ValueError, match="version 1 stays"):
        dataset.set_min_version(2)
    filled.push(make_many(1, first=50))
    with pytest.raises(ConflictError, match="is at version 2, 1 was asked for"):
        next(iter(dataset))
