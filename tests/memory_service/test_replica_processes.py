"""Two replicas as processes of their own: pushes to both at once, draws from both, and the death of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import MemoryClient
from memory_format import decode_batch, encode_batch
from memory_service.cli import main
from memory_service.store.index import postgres as index_alone
from memory_service.store.index import taking_part
from memory_service.testing import ServiceProcess
from tests.memory_service.helpers import make_exemplar
from tests.objects import ObjectStore
from tests.postgres import PostgresServer

BUDGET = 60_000
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


class Replicas:
    """Processes over one index and one object store."""

    def __init__(self, directory: Path, index: str, segments: str, environment: dict[str, str]) -> None:
        self.directory, self.index = directory, index
        self.environment = {
            **environment,
            "MEMORY_SERVICE_INDEX": index,
            "MEMORY_SERVICE_SEGMENTS": segments,
            # Every few pushes fill one; small as it is, it stays in the index. Put are those of test_replica_faults.py.
            "MEMORY_SERVICE_SEGMENT_BYTES": "70000",
        }
        self.stack = ExitStack()

    def start(self, name: str) -> ServiceProcess:
        made = ServiceProcess(self.directory / name, "--replicas", environment=self.environment)
        return self.stack.enter_context(made)


@pytest.fixture
def replicas(tmp_path: Path, postgres: PostgresServer, object_store: ObjectStore) -> Iterator[Replicas]:
    made = Replicas(tmp_path, postgres.new_schema(), object_store.new_prefix(), object_store.environment)
    with made.stack:
        yield made


def push(url: str, seed: int, key: str) -> httpx.Response:
    batch = encode_batch([make_exemplar(i % 3, 100 * seed + i) for i in range(3)])
    headers = {**ARROW, "Idempotency-Key": key}
    return httpx.post(f"{url}/v1/buffers/b/exemplars", content=batch, headers=headers, timeout=60)


def sample(url: str, step: int, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/buffers/b/sample", json={"batch_size": 8, "seed": 3, "step": step, **more})


def records(url: str) -> dict[int, bytes]:
    page = httpx.get(f"{url}/v1/buffers/b/exemplars", params={"limit": 1000}, headers={"Accept": ARROW["Content-Type"]})
    return {record.exemplar_id: record.body for record in decode_batch(page.content)}


def test_pushes_to_both_at_once_lose_and_double_nothing(replicas: Replicas) -> None:
    """Also where one of the two is killed amid them, and its pushes are sent to the other again."""
    first, second = replicas.start("one"), replicas.start("two")
    urls = (first.url, second.url)
    settings = {"budget_bytes": BUDGET, "disk_limit_bytes": 2_000_000, "eviction": "fifo"}
    assert httpx.put(f"{first.url}/v1/buffers/b", json=settings).status_code == 201
    assert httpx.put(f"{second.url}/v1/buffers/b", json=settings).status_code == 200
    answers: list[dict[str, Any]] = []
    seen: list[int] = []

    def run(number: int) -> None:
        for turn in range(8):
            seed, key = 20 * number + turn, f"{number}-{turn}"
            try:
                answered = push(urls[number % 2], seed, key)
            except httpx.TransportError:
                answered = push(urls[0], seed, key)
            answer = answered.raise_for_status().json()
            answers.append(answer)
            # What was acknowledged by one is seen by the other.
            with suppress(httpx.TransportError):
                seen.append(httpx.get(f"{urls[1 - number % 2]}/v1/buffers/b").json()["version"] - answer["version"])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(answers) < 12:
        threads[0].join(0.02)
    second.kill()
    for thread in threads:
        thread.join()
    second = replicas.start("two")
    assert min(seen) >= 0
    given = [id_ for answer in answers for id_ in answer["exemplar_ids"]]
    gone = [id_ for answer in answers for id_ in answer["evicted"]]
    assert (len(answers), len(given)) == (32, 96)
    assert len(set(given)) == len(given)
    assert len(set(gone)) == len(gone)
    # Each push made a version of its own.
    assert sorted(answer["version"] for answer in answers) == list(range(1, 33))
    assert all(answer["bytes_used"] <= BUDGET for answer in answers)
    held = records(first.url)
    assert held.keys() == set(given) - set(gone)
    assert records(second.url) == held
    for step in range(4):
        one, two = sample(first.url, step), sample(second.url, step, version=32)
        assert (one.status_code, one.content) == (two.status_code, two.content)
        assert one.headers["Exemplar-Memory-Version"] == "32"


def test_a_client_that_knows_both_goes_on_with_the_other(replicas: Replicas) -> None:
    """Its pushes, draws and phases do, when the one that it has asked so far is killed."""
    both = [replicas.start(name) for name in ("one", "two")]
    with MemoryClient([replica.url for replica in both]) as memory:
        buffer = memory.create_buffer("b", budget_bytes=BUDGET)
        versions, asked = [], both[0]
        for turn in range(6):
            buffer.enter_phase(turn, learner_id="ann")
            if turn == 3:
                (asked,) = (each for each in both if each.url == memory.session.transport.addresses.in_turn()[0].url)
                asked.kill()
            versions.append(buffer.push([make_exemplar(i % 3, 10 * turn + i) for i in range(3)]).version)
            assert buffer.sample(4, step=turn, pixels=False).version == versions[-1]
        (left,) = (each for each in both if each is not asked)
        assert memory.session.transport.addresses.in_turn()[0].url == left.url
        assert buffer.wait_for_phase(5, ["ann"], timeout=0)["ann"].phase == 5
        assert buffer.stats().num_records == 18
    assert versions == list(range(1, 7))


def test_one_that_wants_the_store_alone_is_refused_and_the_other_way_round(
    replicas: Replicas, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in replicas.environment.items():
        monkeypatch.setenv(name, value)
    for module in (taking_part, index_alone):
        monkeypatch.setattr(module, "_LOCK_SECONDS", 0.0)
    with replicas.start("one"):
        assert main(["serve", "--data", str(replicas.directory / "alone")]) == 2
        assert "is held by another process (memory-service, pid " in capsys.readouterr().err
    with ServiceProcess(replicas.directory / "alone"):
        assert main(["serve", "--data", str(replicas.directory / "one"), "--replicas"]) == 2
        assert "start all of them with --replicas" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--replicas"], "name them as index and segments"),
        (["--replicas", "--index", "postgresql://x/y", "--segments", "s3://abc/d", "--uds", "s"], "uds is for"),
    ],
)
def test_what_replicas_cannot_have_is_refused(
    tmp_path: Path, given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--data", str(tmp_path), *given]) == 2
    assert words in capsys.readouterr().err
