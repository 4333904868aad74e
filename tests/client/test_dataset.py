"""The torch data set, against a real service; and against a slow or failing buffer."""

from __future__ import annotations

import gc
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from client import Buffer, MemoryClient, ReplayBatch, ServiceUnavailableError, Timeout
from client.buffer_dataset import BufferDataset
from client.dataset import ReplayDataset
from client.tensors import ARRAYS, TensorBatch, to_tensors
from memory_format import FormatError, NotFoundError
from tests.client.loaders import steps_of
from tests.client.samples import make, make_many
from tests.conftest import Service


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert prefetch_threads() == []


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("replay-prefetch")]


def assert_same(left: TensorBatch, right: TensorBatch) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        torch.testing.assert_close(values, right[name], rtol=0, atol=0)


def test_the_users_arrays_come_padded_with_nan(buffer: Buffer) -> None:
    values = {number: np.arange(2 + number, dtype=np.float32) / 3 for number in range(3)}
    exact: dict[str, Any] = {
        "array_dtypes": {"logits": "float32"},
        "token_ids": [151_999],
        "token_positions": None,
        "text_length": None,
    }
    buffer.push([make(number, arrays={"logits": values[number]}, **exact) for number in values] + [make(3)])
    batch = next(iter(ReplayDataset(buffer, 4, num_steps=1, replace=False)))
    assert batch["arrays.logits"].shape == (4, 4)
    assert sorted(batch["token_ids"][:, 0].tolist())[1:] == [151_999] * 3
    for exemplar_id, row in zip(batch["exemplar_id"].tolist(), batch["arrays.logits"], strict=True):
        stored = values.get(exemplar_id - 1, np.zeros(0))
        np.testing.assert_array_equal(row[: len(stored)].numpy(), stored)
        assert row[len(stored) :].isnan().all()
    buffer.push([make(4, arrays={"logits": np.zeros((2, 2))})])
    with pytest.raises(FormatError, match="axes"):
        next(iter(ReplayDataset(buffer, 5, num_steps=1, replace=False)))


def test_batches_are_the_samples_as_tensors(filled: Buffer) -> None:
    batches = list(ReplayDataset(filled, 8, seed=3, num_steps=5))
    assert steps_of(batches) == [0, 1, 2, 3, 4]
    for step, batch in enumerate(batches):
        sample = filled.sample(8, seed=3, step=step)
        assert set(batch) == {*ARRAYS, "step", "version"}
        assert int(batch["version"]) == sample.version == filled.info().version
        for name in ARRAYS:
            np.testing.assert_array_equal(batch[name].numpy(), getattr(sample, name))
        assert batch["patches"].dtype == torch.uint8
        assert batch["class_id"].dtype == torch.int64
        assert batch["patch_valid"].dtype == torch.bool


@pytest.mark.parametrize("pixels", [True, False])
def test_a_tensor_has_no_memory_behind_it_but_its_own(buffer: Buffer, pixels: bool) -> None:
    """A worker sends all of the memory that a tensor is a view of (findings/torch_worker_sends_storage.sh)."""
    buffer.push([make(number, arrays={"logits": np.zeros(1 + number)}) for number in range(9)])
    tensors = to_tensors(buffer.sample(5, pixels=pixels))
    assert len(tensors) == len(ARRAYS) + 1
    for name, tensor in tensors.items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_every_array_of_a_batch_becomes_a_tensor() -> None:
    batch = ReplayBatch.from_records(make_many(2))
    assert set(ARRAYS) == {name for name, value in vars(batch).items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize(("prefetch", "threads"), [(1, 1), (4, 1), (4, 3)])
def test_how_it_is_fetched_changes_nothing(filled: Buffer, prefetch: int, threads: int) -> None:
    expected = [filled.sample(4, seed=1, step=step).exemplar_id for step in range(2, 12)]
    dataset = ReplayDataset(filled, 4, seed=1, start_step=2, num_steps=10, prefetch=prefetch, threads=threads)
    for batch, ids in zip(dataset, expected, strict=True):
        np.testing.assert_array_equal(batch["exemplar_id"].numpy(), ids)


def test_it_goes_on_where_it_stopped(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 4, num_steps=6)
    first = list(dataset)
    dataset.set_epoch(0)
    again = list(dataset)
    later = list(ReplayDataset(filled, 4, start_step=4, num_steps=2))
    for left, right in zip(first, again, strict=True):
        assert_same(left, right)
    for left, right in zip(first[4:], later, strict=True):
        assert_same(left, right)
    assert list(ReplayDataset(filled, 4, num_steps=0)) == []


def test_conditions_are_passed_on(filled: Buffer) -> None:
    dataset = ReplayDataset(filled, 5, num_steps=2, class_id=[1, 2], phase=1, strategy="class_balanced", replace=False)
    for batch in dataset:
        assert set(batch["class_id"].tolist()) <= {1, 2}
        assert set(batch["phase"].tolist()) == {1}
        assert len(set(batch["exemplar_id"].tolist())) == 5


def test_learners_can_be_left_out(buffer: Buffer) -> None:
    buffer.push([make(number, learner_id="me" if number % 2 else "you") for number in range(8)])
    mine = {info.exemplar_id for info in buffer.query(learner_id="me")}
    assert mine.isdisjoint(info.exemplar_id for info in buffer.query(not_learner_id="me"))
    for batch in ReplayDataset(buffer, 6, num_steps=2, not_learner_id="me"):
        assert mine.isdisjoint(batch["exemplar_id"].tolist())
    assert mine.isdisjoint(BufferDataset(buffer, not_learner_id="me").exemplar_id.tolist())
    assert [record.learner_id for record in buffer.records(not_learner_id=["me"])] == ["you"] * 4


def test_data_sets_are_of_fields(buffer: Buffer) -> None:
    buffer.push([make(number, fields={"number": number, "even": number % 2 == 0}) for number in range(8)])
    where: dict[str, Any] = {"even": True, "number": [1, 2, "4"]}
    for batch in ReplayDataset(buffer, 6, num_steps=2, fields=where):
        assert {*batch["exemplar_id"].tolist()} == {3, 5}
    assert BufferDataset(buffer, fields=where).exemplar_id.tolist() == [3, 5]
    with pytest.raises(ValueError, match="an empty list matches nothing"):
        ReplayDataset(buffer, 6, num_steps=2, fields={"even": []}).state_dict()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")  # on one core
def test_worker_processes_share_the_steps(filled: Buffer, workers: int) -> None:
    dataset = ReplayDataset(filled, 4, start_step=1, num_steps=5)
    batches = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert steps_of(batches) == [1, 2, 3, 4, 5]
    for batch in batches:
        sample = filled.sample(4, step=int(batch["step"]))
        np.testing.assert_array_equal(batch["exemplar_id"].numpy(), sample.exemplar_id)


def test_leaving_early_ends_the_threads(filled: Buffer) -> None:
    endless = ReplayDataset(filled, 4, threads=2)
    for step, _ in enumerate(endless):
        assert prefetch_threads()
        if step == 3:
            break
    assert prefetch_threads() == []

    iterator = iter(endless)
    next(iterator)
    iterator.close()
    iterator.close()
    assert prefetch_threads() == []
    with pytest.raises(StopIteration):
        next(iterator)

    never_asked = iter(endless)
    assert prefetch_threads() == []
    never_asked.close()
    with pytest.raises(StopIteration):
        next(never_asked)
    collected = iter(endless)
    next(collected)
    assert prefetch_threads()
    del collected
    assert prefetch_threads() == []


def test_errors_arrive_with_their_type(memory: MemoryClient, buffer: Buffer) -> None:
    with pytest.raises(NotFoundError) as caught:
        list(ReplayDataset(buffer, 4))
    assert caught.value.code == "no_matching_exemplars"
    iterator = iter(ReplayDataset(Buffer(memory, "gone"), 4))
    with pytest.raises(NotFoundError):
        next(iterator)
    assert prefetch_threads() == []
    with pytest.raises(StopIteration):
        next(iterator)


class SlowClient:
    """Stands in for a client whose buffer takes its time."""

    def __init__(self, seconds: float = 0.0, fail_at: int | None = None) -> None:
        self.seconds = seconds
        self.fail_at = fail_at
        self.samples = 0
        self.busy = 0
        self.most_busy = 0
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.records = make_many(2)

    def clone(self) -> SlowClient:
        return self

    def stop(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        assert self.stopped.is_set()

    def sample(self, batch_size: int, **conditions: Any) -> ReplayBatch:
        with self.lock:
            self.samples += 1
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        self.stopped.wait(self.seconds)
        with self.lock:
            self.busy -= 1
        if self.stopped.is_set():
            raise ServiceUnavailableError("the client is closed")
        if conditions["step"] == self.fail_at:
            raise ServiceUnavailableError("it broke", retry_after=3)
        return ReplayBatch.from_records(self.records)


def slow_dataset(client: SlowClient, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> ReplayDataset:
    monkeypatch.setattr(Buffer, "sample", lambda self, *args, **more: self.client.sample(*args, **more))
    return ReplayDataset(Buffer(client, "slow"), 2, **settings)  # type: ignore[arg-type]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_no_more_than_prefetch_batches_are_fetched_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SlowClient()
    iterator = iter(slow_dataset(client, monkeypatch, prefetch=3, threads=2))
    for taken in range(1, 6):
        next(iterator)
        eventually(lambda taken=taken: client.samples == taken + 3)  # type: ignore[misc]
    time.sleep(0.1)
    assert client.samples == 5 + 3
    assert client.most_busy <= 2
    iterator.close()


def test_a_busy_consumer_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SlowClient(seconds=0.2)
    dataset = slow_dataset(client, monkeypatch, prefetch=4)
    batches = iter(dataset)
    next(batches)
    dataset.wait_seconds = 0
    eventually(lambda: client.samples == 5 and client.busy == 0)
    time.sleep(0.1)
    for _ in range(4):
        next(batches)
    assert dataset.wait_seconds < 0.2
    dataset.wait_seconds = 0
    for _ in range(3):
        next(batches)
    assert dataset.wait_seconds > 0.2
    batches.close()


def test_an_error_comes_after_the_batches_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = iter(slow_dataset(SlowClient(fail_at=2), monkeypatch, threads=4))
    assert steps_of(list(itertools.islice(batches, 2))) == [0, 1]
    with pytest.raises(ServiceUnavailableError, match="it broke") as caught:
        next(batches)
    assert caught.value.retry_after == 3


def test_leaving_does_not_sit_out_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SlowClient(seconds=30)
    batches = iter(slow_dataset(client, monkeypatch))

    def leave() -> None:
        eventually(lambda: client.busy > 0)
        batches.close()

    leaving = threading.Thread(target=leave)
    leaving.start()
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError):
        next(batches)
    leaving.join()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("way", ["http", "socket"])
def test_leaving_cuts_what_a_service_never_answers(
    way: str, start_service: Callable[..., Service], tmp_path: Path
) -> None:
    """Whose process is stopped, as by a debugger, or by a machine that has come to a halt."""
    service = start_service(None, *(("--uds", str(tmp_path / "socket")) if way == "socket" else ()))
    with MemoryClient(service.url, timeout=Timeout(read=300, total=300)) as memory:
        buffer = memory.create_buffer("b", budget_bytes=10**7)
        buffer.push(make_many(40))
        batches = iter(ReplayDataset(buffer, 8, num_steps=1000, cache_bytes=0))
        next(batches)
        service.process.send_signal(signal.SIGSTOP)
        try:
            leaving = threading.Thread(target=batches.close, daemon=True)
            leaving.start()
            # Requests for the next batches are under way; unless they are cut, for five minutes.
            leaving.join(60)
            assert not leaving.is_alive()
        finally:
            service.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "numbers", [{"prefetch": 0}, {"threads": 0}, {"start_step": -1}, {"num_steps": -1}, {"batch_size": 0}]
)
def test_numbers_that_make_no_sense_are_refused(buffer: Buffer, numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        ReplayDataset(buffer, **{"batch_size": 2, **numbers})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and pages can be locked for it")
def test_pages_cannot_be_locked_without_a_gpu(filled: Buffer) -> None:
    with pytest.raises(ValueError, match="pin_memory needs a GPU"):
        ReplayDataset(filled, 4, pin_memory=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
def test_tensors_come_in_locked_pages_for_a_gpu(filled: Buffer) -> None:
    (batch,) = ReplayDataset(filled, 4, num_steps=1, pin_memory=True)
    assert all(value.is_pinned() for value in batch.values())
