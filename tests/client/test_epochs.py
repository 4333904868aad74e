"""Epochs, ranks, worker processes and deletions: which batches a loader gives, with torch's own loader and groups."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from client import Buffer, MemoryClient
from client._iterator import PrefetchIterator
from client.dataset import ReplayDataset
from client.tensors import TensorBatch
from memory_format import ConflictError
from tests.client.loaders import steps_of
from tests.client.test_network import in_a_fork

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),  # on one core
]


def ids_of(batch: TensorBatch) -> list[int]:
    return batch["exemplar_id"].tolist()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_workers": 2},
        {"num_workers": 2, "persistent_workers": True},
        {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "spawn"},
    ],
    ids=["no workers", "workers", "persistent", "spawned"],
)
def test_every_epoch_has_batches_of_its_own(filled: Buffer, how: dict[str, Any]) -> None:
    dataset = ReplayDataset(filled, 4, seed=3, start_step=100, num_steps=3)
    loader = DataLoader(dataset, batch_size=None, **how)
    assert len(loader) == len(dataset) == 3
    epochs = [list(loader) for _ in range(3)]
    assert [steps_of(epoch) for epoch in epochs] == [[100, 101, 102], [103, 104, 105], [106, 107, 108]]
    for batch in (batch for epoch in epochs for batch in epoch):
        assert ids_of(batch) == filled.sample(4, seed=3, step=int(batch["step"])).exemplar_id.tolist()
    # What is asked for comes, in workers that are there already too; and then the next.
    dataset.set_epoch(1)
    assert steps_of(loader) == [103, 104, 105]
    assert steps_of(loader) == [106, 107, 108]
    dataset.set_epoch(1)
    dataset.set_epoch(0)
    assert steps_of(loader) == [100, 101, 102]
    # Within an epoch, to its end.
    dataset.seek(104)
    assert steps_of(loader) == [104, 105]
    assert steps_of(loader) == [106, 107, 108]


def test_leaving_an_epoch_early_ends_it(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=4)
    for batch in dataset:
        assert int(batch["step"]) == 0
        break
    assert steps_of(dataset) == [4, 5, 6, 7]


def test_another_number_of_workers_goes_on_too(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=3)
    assert steps_of(dataset) == [0, 1, 2]
    assert steps_of(DataLoader(dataset, batch_size=None, num_workers=2)) == [3, 4, 5]
    assert steps_of(DataLoader(dataset, batch_size=None, num_workers=1)) == [6, 7, 8]
    assert steps_of(dataset) == [9, 10, 11]


def test_an_endless_one_has_epochs_and_no_length(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, start_step=7)
    with pytest.raises(TypeError, match="num_steps"):
        len(dataset)
    with pytest.raises(TypeError, match="num_steps"):
        len(DataLoader(dataset, batch_size=None))
    assert dataset
    assert ReplayDataset(filled, 4, num_steps=0)
    firsts = [int(next(iter(dataset))["step"]) for _ in range(2)]
    assert firsts == [7, 7 + 2**32]
    dataset.seek(1000)
    assert int(next(iter(dataset))["step"]) == 1000


def test_copies_count_their_own_epochs(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=2)
    dataset.set_epoch(1)
    copies = [copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))]
    for each in (*copies, dataset):
        assert steps_of(each) == [2, 3]
        assert each._position.shared.is_shared()


@pytest.mark.parametrize("how", [{}, {"batch_size": 4}, {"batch_size": 4, "num_workers": 1}])
def test_batches_of_batches_are_refused(filled: Buffer, how: dict[str, Any]) -> None:
    batches = iter(DataLoader(ReplayDataset(filled, 4, num_steps=4), **how))
    with pytest.raises(TypeError, match="batch_size=None"):
        next(batches)
    if how.get("num_workers"):
        batches._shutdown_workers()  # type: ignore[attr-defined]  # here, not when its traceback is collected


def test_the_loader_leaves_a_batch_as_it_is(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=1)
    (batch,) = DataLoader(dataset, batch_size=None)
    dataset.set_epoch(0)
    (plain,) = dataset
    assert batch.keys() == plain.keys()
    assert isinstance(batch, dict)


def test_what_was_deleted_is_in_no_batch_after_that(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 16, num_steps=20, prefetch=4, threads=2)
    batches = iter(dataset)
    assert {int(class_id) for class_id in next(batches)["class_id"]} == {0, 1, 2, 3}
    assert batches._batches is not None
    for _, future in batches._batches._pending:
        future.result()  # fetched ahead, with class 3
    version = filled.delete(class_id=3).version
    dataset.set_min_version(version)
    rest = list(batches)
    assert steps_of(rest) == list(range(1, 20)), "drawn again, none dropped"
    for batch in rest:
        assert int(batch["version"]) == version
        assert 3 not in batch["class_id"]
        assert ids_of(batch) == filled.sample(16, step=int(batch["step"])).exemplar_id.tolist()


def test_what_workers_hold_is_renewed(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 16, num_steps=20)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    seen: list[TensorBatch] = []
    version = 0
    for batch in map(dataset.renew, loader):
        if len(seen) == 1:
            version = filled.delete(class_id=3).version
            dataset.set_min_version(version)
            batch = dataset.renew(batch)
        seen.append(batch)
    assert steps_of(seen) == list(range(20))
    for batch in seen[1:]:
        assert int(batch["version"]) == version
        assert 3 not in batch["class_id"]


def test_a_version_that_is_not_reached_is_an_error(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=9)
    batches = iter(dataset)
    next(batches)
    dataset.set_min_version(filled.info().version + 1)
    with pytest.raises(ConflictError, match="is at version 1, batches of 2 or later") as caught:
        next(batches)
    assert caught.value.code == "stale_version"
    filled.take_snapshot("then")
    with pytest.raises(ValueError, match="'then'"):
        ReplayDataset(filled, 4, snapshot="then").set_min_version(2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_an_iterator_in_a_forked_process_says_so_and_a_new_one_works(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=50)
    batches = iter(dataset)
    next(batches)

    def iterate() -> None:
        with pytest.raises(RuntimeError, match="another process"):
            next(batches)
        batches.close()
        dataset.set_epoch(1)
        own = iter(dataset)
        assert isinstance(own, PrefetchIterator)
        assert int(next(own)["step"]) == 50
        own.close()

    in_a_fork(iterate)
    assert int(next(batches)["step"]) == 1
    batches.close()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda dataset: dataset.set_epoch(-1), "epoch"),
        (lambda dataset: dataset.set_epoch("1"), "epoch"),
        (lambda dataset: dataset.seek(9), r"step .*in 10\.\."),
        (lambda dataset: dataset.set_min_version(None), "version"),
        (lambda dataset: ReplayDataset(dataset.buffer, cast(Any, "4")), "batch_size"),
        (lambda dataset: ReplayDataset(dataset.buffer, 4, seed=-1), "seed"),
        (lambda dataset: ReplayDataset(dataset.buffer, 4, num_steps=cast(Any, 2.5)), "num_steps"),
        (lambda dataset: ReplayDataset(cast(Any, "birds"), 4), "buffer"),
    ],
)
def test_numbers_that_are_none_are_refused(memory: MemoryClient, call: Any, words: str) -> None:
    dataset = ReplayDataset(Buffer(memory, "b"), 4, start_step=10)
    with pytest.raises(ValueError, match=words):
        call(dataset)


def test_numpys_numbers_are_numbers(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=2)
    dataset.set_epoch(np.int64(2))  # type: ignore[arg-type]  # taken all the same
    assert steps_of(dataset) == [4, 5]
    assert torch.is_tensor(dataset._position.shared)
