"""Decoded exemplars beside draws on the service's own machine: what is lacking is read from its files."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from client import Buffer, ExemplarCache, MemoryClient
from client.tensors import ARRAYS
from memory_format import StorageError
from tests.client.samples import make_many
from tests.conftest import Service

pytestmark = pytest.mark.skipif(not hasattr(socket, "CMSG_SPACE"), reason="descriptors cannot be handed over here")


@pytest.fixture
def service(start_service: Callable[..., Service], tmp_path: Path) -> Service:
    return start_service(tmp_path / "store", "--uds", str(tmp_path / "socket"))


@pytest.fixture
def buffer(service: Service) -> Iterator[Buffer]:
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("b", budget_bytes=10**7)
        buffer.push(make_many(40))
        buffer.take_snapshot("then")
        buffer.push(make_many(20, first=40))
        buffer.delete([3, 5])
        yield buffer


@pytest.fixture
def asked(buffer: Buffer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that are asked for over HTTP."""
    paths: list[str] = []
    transport = buffer.client.session.transport
    request = transport.request

    def noted(method: str, path: str, **arguments: Any) -> httpx.Response:
        paths.append(path)
        return request(method, path, **arguments)

    monkeypatch.setattr(transport, "request", noted)
    return paths


def assert_same(buffer: Buffer, cache: ExemplarCache, batch_size: int = 16, **wanted: Any) -> None:
    cached, plain = buffer.sample(batch_size, cache=cache, **wanted), buffer.sample(batch_size, **wanted)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(cached, name), getattr(plain, name), err_msg=name)
    assert cached.version == plain.version


def test_batches_are_the_same_and_nothing_is_asked_over_http(buffer: Buffer, asked: list[str]) -> None:
    cache = ExemplarCache(2**20)
    wanted: list[dict[str, Any]] = [
        {},
        {"repair_text": 0.6},
        {"snapshot": "then"},
        {"replace": False, "class_id": [1, 2]},
    ]
    for _ in range(2):
        for draw in wanted:
            for step in range(4):
                assert_same(buffer, cache, step=step, **draw)
    assert asked == []
    assert cache.decoded <= 60 + 30
    assert cache.found > 200


def test_over_http_and_on_this_machine_the_same_are_decoded_once(buffer: Buffer, asked: list[str]) -> None:
    cache = ExemplarCache(2**20)
    assert_same(buffer, cache, 58, replace=False)
    buffer.client.session.local.take_offer(None)
    assert_same(buffer, cache, 58, replace=False, repair_text=1.0)
    assert cache.decoded == 58
    assert [path.rsplit("/", 1)[1] for path in asked] == ["sample", "sample"]


def test_a_damaged_file_is_told_by_http(buffer: Buffer, service: Service, asked: list[str]) -> None:
    cache = ExemplarCache(2**20)
    payload = make_many(1)[0].payload
    for segment in (service.data / "segments").iterdir():
        content = bytearray(segment.read_bytes())
        if (place := content.find(payload)) >= 0:
            content[place + 5] ^= 1
            segment.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        buffer.sample(58, replace=False, cache=cache)
    assert caught.value.code == "corrupt_record"
    assert [path.rsplit("/", 1)[1] for path in asked[:2]] == ["sample", "records"]


def test_of_replaced_arrays_the_new_ones_are_drawn(buffer: Buffer) -> None:
    wanted: dict[str, Any] = {"replace": False, "seed": 1}
    cache = ExemplarCache(8 << 20)
    ids = buffer.sample(16, cache=cache, **wanted).exemplar_id[:4]
    logits = np.arange(12, dtype=np.float32).reshape(4, 3)
    for round_ in (1, 2):
        buffer.replace(ids, {"logits": logits + round_}, if_revisions=[round_ - 1] * 4)
        for _ in range(2):
            now = buffer.sample(58, cache=cache, **wanted)
            places = [now.exemplar_id.tolist().index(id_) for id_ in ids.tolist()]
            found = [now.arrays()[place]["logits"].tolist() for place in places]
            assert found == (logits + round_).tolist()
            assert now.revision[places].tolist() == [round_] * 4
            assert np.count_nonzero(now.revision) == 4
        assert_same(buffer, cache, 58, **wanted)
        assert_same(buffer, cache, 16, snapshot="then")
