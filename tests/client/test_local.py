"""Draws on the service's own machine: the same batches as over HTTP, or HTTP; never another batch."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from client import Buffer, MemoryClient, Retries, _local
from client._lent import read_lent
from client._local import LocalWay
from client._network import Deadline
from client.dataset import ReplayDataset
from memory_format import Batch, StorageError, lending, read_batch
from memory_format.api.answers import LocalSocket
from memory_service.store.keys import KeyFile
from tests.client.samples import make_many
from tests.conftest import Service
from tests.descriptors import open_links
from tests.memory_service.helpers import wait_until

pytestmark = pytest.mark.skipif(not hasattr(socket, "CMSG_SPACE"), reason="descriptors cannot be handed over here")

WANTED: list[dict[str, Any]] = [
    {},
    {"strategy": "class_balanced", "replace": False},
    {"strategy": "score_weighted", "class_id": [1, 2]},
    {"repair_text": 0.5},
    {"repair_text": 1.0, "class_id": 3},
    {"snapshot": "then"},
]


@pytest.fixture(autouse=True)
def _anew() -> None:
    _local._told.clear()


@pytest.fixture
def local(start_service: Callable[..., Service], tmp_path: Path) -> Iterator[tuple[Service, MemoryClient, Buffer]]:
    """A service with a socket, and a buffer of two segments with and one snapshot."""
    service = start_service(None, "--uds", str(tmp_path / "socket"))
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("b", budget_bytes=10**7)
        buffer.push(make_many(40))
        buffer.take_snapshot("then")
        buffer.push(make_many(30, first=40))
        buffer.delete([3, 5])
        yield service, memory, buffer


def over_http(buffer: Buffer, batch_size: int, **wanted: Any) -> Batch:
    """The batch as it comes over HTTP, whatever else there is."""
    body = {"batch_size": batch_size, **wanted}
    answer = buffer.client.session.request("POST", f"/v1/buffers/{buffer.name}/sample", json=body)
    return read_batch(answer.content)


def assert_same(one: Batch, other: Batch) -> None:
    assert one.headers.tobytes() == other.headers.tobytes()
    assert one.learner_ids == other.learner_ids
    assert [bytes(body) for body in one.bodies] == [bytes(body) for body in other.bodies]


class Counted:
    """How many draws went which way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.local = self.http = 0
        draw = LocalWay.draw

        def counted(way: LocalWay, content: bytes, deadline: Deadline, read: _local.Read[Any], following: Any) -> Any:
            found = draw(way, content, deadline, read, following)
            self.local += found is not None
            self.http += found is None
            return found

        monkeypatch.setattr(LocalWay, "draw", counted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_a_batch_is_the_one_that_comes_over_http(local: tuple[Service, MemoryClient, Buffer], counted: Counted) -> None:
    _, memory, buffer = local
    for step, wanted in enumerate(WANTED):
        drawn = buffer.sample(16, seed=7, step=step, **wanted)
        assert isinstance(drawn.held, Batch)
        body = {**wanted, **({"class_id": np.atleast_1d(wanted["class_id"]).tolist()} if "class_id" in wanted else {})}
        assert_same(drawn.held, over_http(buffer, 16, seed=7, step=step, **body))
        assert drawn.version == (memory.buffer("b").info().version if "snapshot" not in wanted else 1)
    assert (counted.local, counted.http) == (len(WANTED), 0)
    assert buffer.stats().samples == 2 * len(WANTED)


def test_the_next_step_is_drawn_before_this_one_is_read(
    local: tuple[Service, MemoryClient, Buffer], counted: Counted
) -> None:
    _, _, buffer = local
    before = buffer.stats().samples
    for step, wanted in enumerate(WANTED):
        for number in (step, step + 100):
            drawn = buffer.sample(16, seed=7, step=number, next_step=number + 100, **wanted)
            assert isinstance(drawn.held, Batch)
            body = {**wanted, "class_id": np.atleast_1d(wanted.get("class_id", range(10))).tolist()}
            assert_same(drawn.held, over_http(buffer, 16, seed=7, step=number, **body))
    assert counted.http == 0
    # Beside those over HTTP, each is drawn once, and with the last ones those that nobody came for.
    wait_until(lambda: buffer.stats().samples == before + 5 * len(WANTED))
    # As many are kept as threads may ask, of which each has a connection.
    assert len(buffer.client.session.local._asked) == 4


def test_what_nobody_comes_for_holds_no_file_once_its_client_is_closed(
    local: tuple[Service, MemoryClient, Buffer],
) -> None:
    service, _, buffer = local
    with MemoryClient(service.url) as other:
        asking = other.buffer("b")
        asking.info()
        asking.sample(16, next_step=1)
        buffer.delete_snapshot("then")
        buffer.delete(class_id=range(10))
        assert buffer.stats().held_bytes > 0
    wait_until(lambda: buffer.stats().held_bytes == 0)


def test_a_data_set_draws_each_step_once_and_none_before_a_change(
    local: tuple[Service, MemoryClient, Buffer], counted: Counted
) -> None:
    _, _, buffer = local
    before = buffer.stats().samples
    data = ReplayDataset(buffer, 16, num_steps=40)
    batches = list(data)
    assert [int(batch["step"]) for batch in batches] == list(range(40))
    assert buffer.stats().samples == before + 40
    assert (counted.local, counted.http) == (40, 0)
    for batch in batches:
        assert batch["exemplar_id"].tolist() == buffer.sample(16, step=int(batch["step"])).exemplar_id.tolist()
    changing, version = ReplayDataset(buffer, 16, num_steps=100), buffer.info().version
    for batch in changing:
        assert int(batch["version"]) == version
        if int(batch["step"]) % 20 == 0:
            version = buffer.delete([10 + int(batch["step"]) // 20]).version
            changing.set_min_version(version)


def test_a_key_with_one_connection_draws_locally_all_the_same(
    start_service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    """What is asked for before its turn needs a second one."""
    monkeypatch.setenv("MEMORY_SERVICE_KEY_CONNECTIONS", "1")
    service = start_service(None, "--uds", str(tmp_path / "socket"))
    _, key = KeyFile(service.data).make("write", 0.0)
    with MemoryClient(service.url, key=key) as memory:
        buffer = memory.create_buffer("b", budget_bytes=10**7)
        buffer.push(make_many(40))
        for step in range(6):
            assert len(buffer.sample(8, step=step, next_step=step + 1).exemplar_id) == 8
        assert buffer.stats().samples == 6
    assert (counted.local, counted.http) == (6, 0)


def test_a_client_finds_the_socket_by_itself_and_by_its_path(
    local: tuple[Service, MemoryClient, Buffer], tmp_path: Path, counted: Counted
) -> None:
    path = tmp_path / "socket"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with MemoryClient(f"unix://{path}") as memory:
        told = memory.info().local
        assert told is not None
        assert told.path == str(path)
        assert memory.health()
        assert len(memory.buffer("b").sample(4)) == 4
        with memory.clone() as other:
            assert len(Buffer(other, "b").sample(4)) == 4
    assert counted.local == 2


def test_no_descriptor_stays_behind(local: tuple[Service, MemoryClient, Buffer]) -> None:
    _, _, buffer = local
    buffer.sample(16)
    before = sorted(os.listdir("/proc/self/fd"))
    for step in range(50):
        buffer.sample(16, step=step)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert buffer.stats().held_bytes == 0


def test_descriptors_show_their_files_for_reading_only(
    local: tuple[Service, MemoryClient, Buffer], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    flags: list[int] = []

    def looked_at(lent: lending.LentRows, descriptors: list[int]) -> Batch:
        modes.extend(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE for number in descriptors)
        flags.extend(fcntl.fcntl(number, fcntl.F_GETFD) for number in descriptors)
        return read_lent(lent, descriptors)

    monkeypatch.setattr(_local, "read_lent", looked_at)
    local[2].sample(16)
    assert set(modes) == {os.O_RDONLY}
    assert set(flags) == {fcntl.FD_CLOEXEC}


# Something is wrong


def test_damage_is_what_it_is_over_http(local: tuple[Service, MemoryClient, Buffer], counted: Counted) -> None:
    service, _, buffer = local
    buffer.sample(4)
    for path in (service.data / "segments").iterdir():
        data = bytearray(path.read_bytes())
        # In every record: the smallest has more bytes than that.
        for at in range(0, len(data), 64):
            data[at] ^= 4
        with path.open("r+b") as file:
            file.write(data)
    with pytest.raises(StorageError) as caught:
        buffer.sample(64, step=1)
    assert caught.value.code == "corrupt_record"
    assert counted.http == 1


def test_a_file_that_was_cut_is_damage(
    local: tuple[Service, MemoryClient, Buffer], caplog: pytest.LogCaptureFixture
) -> None:
    service, _, buffer = local
    buffer.sample(4)
    for path in (service.data / "segments").iterdir():
        os.truncate(path, 3000)
    with caplog.at_level(logging.WARNING, "client._local"), pytest.raises(StorageError) as caught:
        buffer.sample(64, step=1)
    assert caught.value.code == "corrupt_record"
    assert "draws go over HTTP for now" in caplog.text


@pytest.mark.parametrize(
    "what", ["other user's", "open to others", "no socket", "gone", "other run"], ids=lambda what: str(what)
)
def test_a_socket_that_is_not_the_services_is_not_used(
    what: str,
    local: tuple[Service, MemoryClient, Buffer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, memory, buffer = local
    path = tmp_path / "socket"
    if what == "other user's":
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
    elif what == "open to others":
        path.chmod(0o666)
    elif what == "no socket":
        path.unlink()
        path.write_bytes(b"")
        path.chmod(0o600)
    elif what == "gone":
        path.unlink()
    else:
        offer = memory.session.local.offer
        assert offer is not None
        memory.session.local.take_offer(LocalSocket(offer.path, "0" * 32))
    with caplog.at_level(logging.WARNING, "client._local"):
        for step in range(3):
            assert len(buffer.sample(8, step=step)) == 8
    assert caplog.text.count("draws go over HTTP for now") == 1


def test_too_few_descriptors_are_no_wrong_batch(local: tuple[Service, MemoryClient, Buffer]) -> None:
    _, _, buffer = local
    expected = [bytes(body) for body in over_http(buffer, 16, step=3).bodies]
    buffer.sample(4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # None is left: not one of a batch's files can be taken.
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        try:
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        drawn = buffer.sample(16, step=3)
    finally:
        for number in fillers:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(drawn.held, Batch)
    assert [bytes(body) for body in drawn.held.bodies] == expected


def test_a_service_that_starts_again_is_found_again(
    start_service: Callable[..., Service], tmp_path: Path, counted: Counted
) -> None:
    path = str(tmp_path / "socket")
    service = start_service(None, "--uds", path)
    port = service.url.rpartition(":")[2]
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("b", budget_bytes=10**7)
        buffer.push(make_many(40))
        buffer.sample(8, next_step=0)
        # It leaves its socket behind, and what was asked for goes with it.
        service.kill()
        service = start_service(service.data, "--uds", path, "--port", port)
        # So do the clones that a data set makes of a client which has not drawn since.
        steps = [int(batch["step"]) for _ in range(2) for batch in ReplayDataset(buffer, 8, num_steps=5, cache_bytes=0)]
        assert steps == [*range(5)] * 2
        assert (counted.local, counted.http) == (9, 2)
        drawn = [buffer.sample(8, step=step).exemplar_id.tolist() for step in range(4)]
        assert drawn == [over_http(buffer, 8, step=step).headers["exemplar_id"].tolist() for step in range(4)]
    assert counted.local >= 12
    assert counted.http >= 3


# Threads and processes


def test_threads_share_a_client(local: tuple[Service, MemoryClient, Buffer], counted: Counted) -> None:
    buffer = local[2]
    alone = [buffer.sample(8, step=step).exemplar_id.tolist() for step in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda step: buffer.sample(8, step=step).exemplar_id.tolist(), range(40)))
    assert together == alone
    assert counted.local == 80


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_draw_locally(method: str, local: tuple[Service, MemoryClient, Buffer]) -> None:
    buffer = local[2]
    buffer.sample(4)
    dataset = ReplayDataset(buffer, batch_size=8, num_steps=8)
    alone = [batch["exemplar_id"].tolist() for batch in dataset]
    dataset.set_epoch(0)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=method)
    assert [batch["exemplar_id"].tolist() for batch in loader] == alone


def test_a_process_forked_in_the_middle_of_a_draw_keeps_no_descriptor(
    local: tuple[Service, MemoryClient, Buffer], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, buffer = local
    buffer.sample(4)
    children: list[Any] = []
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)

    def open_files() -> list[str]:
        return [link for _, link in open_links() if link.startswith(str(service.data))]

    def forking(lent: lending.LentRows, descriptors: list[int]) -> Batch:
        assert open_files()
        child = fork.Process(target=lambda: sending.send(open_files()))
        child.start()
        children.append(child)
        return read_lent(lent, descriptors)

    monkeypatch.setattr(_local, "read_lent", forking)
    assert len(buffer.sample(8)) == 8
    children[0].join(30)
    assert receiving.poll(0)
    assert receiving.recv() == []


def test_retries_do_not_end_at_the_socket(local: tuple[Service, MemoryClient, Buffer]) -> None:
    """A client that is closed says so, on this way too."""
    with MemoryClient(local[0].url, retries=Retries(tries=1)) as memory:
        buffer = memory.buffer("b")
        buffer.sample(4)
    with pytest.raises(ConnectionError, match="the client is closed"):
        buffer.sample(4)
