"""The map-style data set, with torch's own samplers and loaders, against a real service."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from client import Buffer, MemoryClient
from client.buffer_dataset import BufferDataset
from client.tensors import ARRAYS, TensorBatch
from memory_format import ConflictError, NotFoundError, Record
from tests.client.samples import make, make_many

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
    # torchdata 0.11 beside torch 2.14.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]


@pytest.fixture
def filled(buffer: Buffer) -> Buffer:
    buffer.push(make_many(40))
    return buffer


def ids_of(loader: Any) -> list[list[int]]:
    return [batch["exemplar_id"].tolist() for batch in loader]


def stored(buffer: Buffer) -> dict[int, Record]:
    return {record.exemplar_id: record for record in buffer.records()}


def assert_is(batch: TensorBatch, row: int, record: Record) -> None:
    """A row of a padded batch is what is stored."""
    valid = batch["patch_valid"][row]
    np.testing.assert_array_equal(batch["patches"][row][valid].numpy(), record.patches())
    assert not batch["patches"][row][~valid].any()
    assert batch["token_ids"][row][batch["token_valid"][row]].tolist() == record.token_ids.tolist()
    assert int(batch["class_id"][row]) == record.class_id
    assert float(batch["score"][row]) == pytest.approx(record.score)
    assert int(batch["rank"][row]) == record.rank


def test_every_exemplar_comes_once(filled: Buffer) -> None:
    dataset = BufferDataset(filled)
    assert len(dataset) == 40
    assert dataset.version == 1
    assert dataset.exemplar_id.tolist() == list(range(1, 41))
    assert dataset.class_id.tolist() == [number % 4 for number in range(40)]
    assert dataset.score.dtype == np.float32
    records = stored(filled)
    batches = list(DataLoader(dataset, batch_size=16, shuffle=True))
    assert sorted(id_ for ids in ids_of(batches) for id_ in ids) == list(range(1, 41))
    for batch in batches:
        assert batch.keys() == set(ARRAYS)
        for row, exemplar_id in enumerate(batch["exemplar_id"].tolist()):
            assert_is(batch, row, records[exemplar_id])


def test_one_exemplar_has_no_padding(filled: Buffer) -> None:
    dataset = BufferDataset(filled, class_id=[1, 2], phase=0)
    assert set(dataset.class_id) == {1, 2}
    assert set(dataset.phase) == {0}
    records = stored(filled)
    every: Any = dataset  # by __getitem__, to the first IndexError
    for place, one in enumerate(every):
        record = records[int(one["exemplar_id"])]
        assert dataset.exemplar_id[place] == record.exemplar_id
        np.testing.assert_array_equal(one["patches"].numpy(), record.patches())
        assert one["token_ids"].tolist() == record.token_ids.tolist()
        assert one["grid"].tolist() == list(record.grid)
    assert int(dataset[-1]["exemplar_id"]) == dataset.exemplar_id[-1]
    assert int(every[np.int64(1)]["exemplar_id"]) == dataset.exemplar_id[1]
    for none in (len(dataset), -len(dataset) - 1, "0", 1.0, slice(2), None):
        with pytest.raises(IndexError, match="places are 0"):
            every[none]


def test_a_batch_is_one_request(filled: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    request = filled.client.session.request
    dataset = BufferDataset(filled)

    def noted(method: str, path: str, **more: Any) -> Any:
        asked.append(path)
        return request(method, path, **more)

    monkeypatch.setattr(filled.client.session, "request", noted)
    (batch,) = DataLoader(dataset, batch_size=40)
    assert len(batch["exemplar_id"]) == 40
    assert len(asked) == 1
    # An exemplar that comes again is fetched once.
    places = [3, 5, 3, 3]
    again = dataset.__getitems__(places)
    assert [int(one["exemplar_id"]) for one in again] == [4, 6, 4, 4]
    assert again.tensors["exemplar_id"].tolist() == [4, 6, 4, 4]
    assert len(asked) == 2


def test_torchs_samplers_choose(filled: Buffer) -> None:
    dataset = BufferDataset(filled)
    shares = []
    for rank in range(2):
        sampler: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=3)
        sampler.set_epoch(1)
        shares.append({id_ for ids in ids_of(DataLoader(dataset, batch_size=8, sampler=sampler)) for id_ in ids})
    assert shares[0] | shares[1] == set(range(1, 41))
    assert not shares[0] & shares[1]
    weights = (dataset.class_id == 2).astype(float)
    heavy = WeightedRandomSampler(weights.tolist(), 100, generator=torch.Generator().manual_seed(0))
    drawn = ids_of(DataLoader(dataset, batch_size=50, sampler=heavy))
    assert [len(ids) for ids in drawn] == [50, 50]
    assert {(id_ - 1) % 4 for ids in drawn for id_ in ids} == {2}


@pytest.mark.parametrize(
    "how",
    [
        {"num_workers": 2},
        {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "spawn"},
    ],
    ids=["forked", "spawned"],
)
def test_workers_fetch(filled: Buffer, how: dict[str, Any]) -> None:
    dataset = BufferDataset(filled)
    assert ids_of(DataLoader(dataset, batch_size=16, **how)) == ids_of(DataLoader(dataset, batch_size=16))


def test_torchdatas_loader_goes_on(filled: Buffer) -> None:
    def loader() -> StatefulDataLoader[Any]:
        torch.manual_seed(4)
        return StatefulDataLoader(BufferDataset(filled), batch_size=8, shuffle=True)

    expected = ids_of(loader())
    first = loader()
    batches = iter(first)
    found = [next(batches)["exemplar_id"].tolist() for _ in range(2)]
    again = loader()
    again.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert found + ids_of(again) == expected


def test_one_by_one_or_together_they_make_the_same_batch(filled: Buffer, buffer: Buffer) -> None:
    buffer.push([make(50, arrays={"logits": np.arange(3)}), make(51, arrays={"logits": np.arange(5)}), make(52)])
    dataset = BufferDataset(filled)
    places = [41, 3, 40, 7, 42]
    (together,) = DataLoader(Subset(dataset, places), batch_size=5)
    (one_by_one,) = DataLoader(ConcatDataset([Subset(dataset, [place]) for place in places]), batch_size=5)
    assert together.keys() == one_by_one.keys() == {*ARRAYS, "arrays.logits"}
    for name, values in together.items():
        torch.testing.assert_close(one_by_one[name], values, rtol=0, atol=0, equal_nan=True)
    collated: Callable[[Any], list[int]] = lambda exemplars: [len(one["patches"]) for one in exemplars]  # noqa: E731
    (counts,) = DataLoader(Subset(dataset, places), batch_size=5, collate_fn=collated)
    assert counts == together["patch_valid"].sum(dim=1).tolist()


def test_it_stays_at_its_version(filled: Buffer) -> None:
    filled.take_snapshot("then")
    now, then = BufferDataset(filled), BufferDataset(filled, snapshot="then")
    (before,) = DataLoader(now, batch_size=40)
    filled.push(make_many(3, first=50))
    filled.update_scores(now.exemplar_id, scores=np.ones(40))
    filled.delete([2, 3])
    assert len(now) == len(then) == 40
    assert now.version == then.version == 1
    (after,) = DataLoader(then, batch_size=40)
    for name, values in before.items():
        torch.testing.assert_close(after[name], values, rtol=0, atol=0)
    assert float(now[9]["score"]) == pytest.approx(0.09), "of its version, as everything else"
    with pytest.raises(
        NotFoundError, match=r"has no exemplar 2 any more, 2 of 40 are gone; those of a snapshot"
    ) as caught:
        list(DataLoader(now, batch_size=40))
    assert caught.value.code == "unknown_exemplar"
    assert len(BufferDataset(filled)) == 41
    copied = pickle.loads(pickle.dumps(then))
    assert int(copied[1]["exemplar_id"]) == 2
    copied.buffer.client.close()


def test_a_buffer_that_never_stands_still_is_told(filled: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    query = Buffer.query

    def changing(self: Buffer, **where: Any) -> Any:
        self.update_scores([1], scores=[len(str(where)) / 7 + self.info().version])
        return query(self, **where)

    monkeypatch.setattr(Buffer, "query", changing)
    with pytest.raises(ConflictError, match="take a snapshot"):
        BufferDataset(filled)


def test_what_is_not_there_is_told(memory: MemoryClient, buffer: Buffer) -> None:
    assert len(BufferDataset(buffer)) == 0
    with pytest.raises(NotFoundError) as caught:
        BufferDataset(Buffer(memory, "gone"))
    assert caught.value.code == "unknown_buffer"
    with pytest.raises(NotFoundError) as caught:
        BufferDataset(buffer, snapshot="gone")
    assert caught.value.code == "unknown_snapshot"
