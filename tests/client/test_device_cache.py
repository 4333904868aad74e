"""Batches gathered on a device are those of the CPU; the device is the CPU, and a GPU where there is one."""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from client import Buffer, MemoryClient
from client.dataset import ReplayDataset
from client.device_cache import DeviceCache
from client.tensors import to_tensors
from memory_format import JPEG, Record
from tests.client.samples import make, make_many
from tests.client.script import Meddling

MIB = 2**20
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several that wait for each other on a busy machine take a hundred times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def assert_same(buffer: Buffer, cache: DeviceCache, batch_size: int = 16, **wanted: Any) -> None:
    tensors = to_tensors(buffer.sample(batch_size, cache=cache, **wanted))
    plain = to_tensors(buffer.sample(batch_size, **wanted))
    assert tensors["patches"].device.type == cache.device.type
    assert tensors.keys() == plain.keys()
    for name, values in plain.items():
        torch.testing.assert_close(tensors[name].cpu(), values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "wanted", [{}, {"repair_text": 0.6}, {"strategy": "class_balanced", "replace": False}], ids=str
)
def test_batches_are_the_same(buffer: Buffer, device: torch.device, wanted: dict[str, Any]) -> None:
    buffer.push(make_many(40))
    cache = DeviceCache(MIB, device)
    for step in [*range(6), *range(6)]:
        assert_same(buffer, cache, step=step, **wanted)
    decoded = cache.decoded
    buffer.delete([1, 2])
    buffer.update_scores([3, 4], scores=[0.25, -1])
    for step in range(6):
        assert_same(buffer, cache, step=step, **wanted)
    assert cache.decoded <= decoded + 10
    assert cache.found > 100


def test_patches_of_several_sizes_that_outgrow_it(memory: MemoryClient, buffer: Buffer, device: torch.device) -> None:
    sides = (16, 27, 80)
    buffers = {side: memory.create_buffer(f"{buffer.name}-{side}", budget_bytes=2_000_000) for side in sides}
    for number in range(36):
        side = sides[number % 3]
        patches = np.random.default_rng(number).integers(0, 256, (6, side, side, 3), dtype=np.uint8)
        record = make(number, patches=patches, keep_mask=np.ones((2, 3), bool), codec=JPEG(quality=20))
        buffers[side].push([record])
    cache = DeviceCache(MIB, device)
    rng = random.Random(0)
    for step in range(24):
        assert_same(buffers[rng.choice(sides)], cache, 5, step=step)
    assert cache.found > 10
    assert cache.decoded > 36


def test_a_batch_that_does_not_fit_is_right(
    buffer: Buffer, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    patches = np.zeros((6, 100, 100, 3), dtype=np.uint8)
    buffer.push([make(number, patches=patches + number, keep_mask=np.ones((2, 3), bool)) for number in range(8)])
    cache = DeviceCache(MIB, device)
    for step in range(3):
        assert_same(buffer, cache, 8, step=step, replace=False)
    assert len(caplog.messages) == 1


def test_what_has_gone_since_it_was_found_is_fetched_again(
    buffer: Buffer, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.push(make_many(20))
    cache = DeviceCache(MIB, device)
    assert_same(buffer, cache, 20, replace=False)
    gather = DeviceCache.gather

    def overtaken(self: DeviceCache, *arguments: Any) -> list[int]:
        for number in range(20):
            self.put(0, number, 0, b"", torch.full((1, 150, 150, 3), number, dtype=torch.uint8, device=device))
        return gather(self, *arguments)

    monkeypatch.setattr(DeviceCache, "gather", overtaken)
    assert_same(buffer, cache, 20, replace=False, step=1)
    assert cache.decoded == 40


def test_threads_share_it(buffer: Buffer, device: torch.device) -> None:
    buffer.push(make_many(40))
    cache = DeviceCache(MIB, device)
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for step in range(first, first + 10):
                assert_same(buffer, cache, step=step)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(3 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def on_cpu(records: Sequence[Record], _device: torch.device) -> torch.Tensor:
    """In place of nvJPEG, and of any codec."""
    most = max(record.num_kept for record in records)
    out = torch.zeros((len(records), most, 8, 8, 3), dtype=torch.uint8)
    for row, record in enumerate(records):
        out[row, : record.num_kept] = torch.from_numpy(np.ascontiguousarray(record.patches()))
    return out


def test_payloads_are_decoded_on_the_device_once(buffer: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a CPU decodes in place of nvJPEG: ``test_device_jpeg.py`` tests that."""
    times = []

    def counted(records: Sequence[Record], device: torch.device) -> torch.Tensor:
        times.append(len(records))
        return on_cpu(records, device)

    monkeypatch.setattr("client.device_cache.decode_patches", counted)
    buffer.push(make_many(20))
    cache = DeviceCache(MIB, torch.device("cpu"), decodes_there=True)
    for step in range(5):
        assert_same(buffer, cache, step=step, repair_text=0.5)
    assert sum(times) <= 20


@pytest.mark.parametrize("decodes_there", [False, True])
def test_a_record_that_goes_after_it_was_drawn(
    buffer: Buffer, monkeypatch: pytest.MonkeyPatch, decodes_there: bool
) -> None:
    buffer.push(make_many(20))
    monkeypatch.setattr("client.device_cache.decode_patches", on_cpu)
    cache = DeviceCache(MIB, torch.device("cpu"), decodes_there=decodes_there)
    network = Meddling(lambda: buffer.delete(range(1, 20)))
    with MemoryClient(buffer.client.url, transport=network) as other:
        tensors = to_tensors(Buffer(other, buffer.name).sample(8, cache=cache))
    torch.testing.assert_close(tensors["patches"], torch.from_numpy(buffer.sample(8).patches), rtol=0, atol=0)
    assert tensors["exemplar_id"].tolist() == [20] * 8


def test_the_data_set_gathers_where_it_is_told_to(
    buffer: Buffer, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.push(make_many(20))
    dataset = ReplayDataset(buffer, 8, num_steps=12, cache_bytes=MIB, cache_device=device, threads=2)
    plain = list(ReplayDataset(buffer, 8, num_steps=12, cache_bytes=0))
    for _ in range(2):
        dataset.set_epoch(0)
        for batch, expected in zip(dataset, plain, strict=True):
            assert batch["patches"].device.type == device.type
            for name, values in expected.items():
                torch.testing.assert_close(batch[name].cpu(), values, rtol=0, atol=0, equal_nan=True)
    assert dataset.cache is not None
    assert dataset.cache.decoded <= 20 + 8
    monkeypatch.setattr("client.device_cache.decode_patches", on_cpu)
    monkeypatch.setattr("client.dataset.require_torchvision", lambda: None)
    assert ReplayDataset(buffer, 8, decode_device="cpu").cache is None
    decoding = ReplayDataset(buffer, 8, num_steps=12, cache_bytes=2 * MIB, decode_device="cpu")
    for batch, expected in zip(decoding, plain, strict=True):
        torch.testing.assert_close(batch["patches"], expected["patches"], rtol=0, atol=0)
    with pytest.raises(ValueError, match="leave cache_device out"):
        ReplayDataset(buffer, 8, decode_device="cpu", cache_device="cuda")


def test_another_process_makes_its_own() -> None:
    cache = DeviceCache(2 * MIB, torch.device("cpu"))
    again = pickle.loads(pickle.dumps(cache))
    assert (again.num_bytes, again.device, again.decodes_there) == (2 * MIB, torch.device("cpu"), False)
    assert pickle.loads(pickle.dumps(cache)) is again
    with pytest.raises(ValueError, match="cache_bytes must be"):
        DeviceCache(5, torch.device("cpu"))
