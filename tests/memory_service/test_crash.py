"""kill -9 of the real server under mixed work: what was acknowledged is there, and nothing else is.

KILL_ROUNDS says how often; `make nightly` asks for many.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import Record, encode_batch
from memory_service.store.index.generation import read_mark
from tests.memory_service import disk
from tests.memory_service.helpers import ARROW, Server, all_records, make_exemplar, put_buffer, reading

ROUNDS = int(os.environ.get("KILL_ROUNDS", "5"))
CLIENTS = 4
BUDGETS = {"roomy": 50_000_000, "tight": 60_000}
LIMITS = {"roomy": 80_000_000, "tight": 260_000}
# Small, so that the short life of a server sees many segments sealed, merged and removed.
SEGMENT_BYTES = 300_000

pytestmark = pytest.mark.timeout(300 + 30 * ROUNDS)


@dataclass
class Acknowledged:
    """What the server has said happened to one buffer, all clients together."""

    records: dict[int, Record] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    """Evicted or deleted."""


@dataclass
class Known:
    """All buffers, shared by the clients."""

    buffers: dict[str, Acknowledged] = field(default_factory=lambda: {name: Acknowledged() for name in BUDGETS})
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, buffer: str, answer: dict[str, Any], records: list[Record]) -> None:
        with self.lock:
            known = self.buffers[buffer]
            pairs = zip(answer["exemplar_ids"], records, strict=True)
            known.records |= {id_: record for id_, record in pairs if id_ is not None}
            known.gone |= set(answer["evicted"])


@dataclass
class Push:
    buffer: str
    key: str
    records: list[Record]
    answer: str | None = None


@dataclass
class Removal:
    buffer: str
    ids: set[int]


@dataclass
class Patch:
    buffer: str
    ids: set[int]
    score: float


@dataclass
class Taken:
    """A snapshot, and what a sample from it gave."""

    version: int
    num_records: int
    batch: bytes | None = None


class Client(threading.Thread):
    """One client through one life of the server. What it knows is handed on to the next life's."""

    def __init__(self, number: int, known: Known) -> None:
        super().__init__()
        self.number, self.known = number, known
        self.learner = f"client-{number}"
        self.url = ""
        self.random = random.Random(number)
        self.count = 0
        self.mine: dict[str, dict[int, int]] = {name: {} for name in BUDGETS}
        """Buffer -> id -> class of what this client has pushed and not deleted."""
        self.scores: dict[tuple[str, int], float] = {}
        self.snapshots: dict[tuple[str, str], Taken] = {}
        self.forks: dict[str, int] = {}
        self.last: Push | None = None
        self.refused = 0
        self.unsure: Any = None
        """The operation under way: not answered, if the server dies."""

    def next_life(self) -> Client:
        heir = Client(self.number, self.known)
        for name in ("random", "count", "mine", "scores", "snapshots", "forks", "last", "refused"):
            setattr(heir, name, getattr(self, name))
        return heir

    def run(self) -> None:
        kinds: list[tuple[int, Callable[[httpx.Client, str], None]]] = [
            *((10, self.push), (3, self.patch), (2, self.delete), (3, self.read)),
            *((2, self.take_snapshot), (1, self.drop_snapshot), (1, self.fork), (1, self.drop_fork)),
        ]
        weights = [weight for weight, _ in kinds]
        with httpx.Client(base_url=self.url, timeout=20) as client:
            while True:
                self.count += 1
                (operation,) = self.random.choices([operation for _, operation in kinds], weights)
                try:
                    operation(client, self.random.choice(list(BUDGETS)))
                except httpx.TransportError:
                    return
                self.unsure = None

    def _accepted(self, response: httpx.Response, *also: int) -> bool:
        """Whether it was done; what the disk limit refuses was not, and is no error."""
        if response.status_code == 507 or response.status_code in also:
            self.refused += 1
            return False
        assert response.status_code < 300, response.text
        return True

    def push(self, client: httpx.Client, buffer: str) -> None:
        seed = self.number * 10**6 + self.count * 10
        sizes = [self.random.choice([30, 300, 3000]) for _ in range(self.random.choice([1, 3, 12]))]
        records = [
            make_exemplar(i % 5, i, seed=seed + i, pad=pad, learner_id=self.learner) for i, pad in enumerate(sizes)
        ]
        push = self.unsure = Push(buffer, f"{self.number}-{self.count}", records)
        response = send(client, push)
        if self._accepted(response):
            push.answer = response.text
            self._own(push, response.json())

    def _own(self, push: Push, answer: dict[str, Any]) -> None:
        self.known.note(push.buffer, answer, push.records)
        self.last = push
        pairs = zip(answer["exemplar_ids"], push.records, strict=True)
        self.mine[push.buffer] |= {id_: record.class_id for id_, record in pairs if id_ is not None}

    def patch(self, client: httpx.Client, buffer: str) -> None:
        ids = self.random.sample(sorted(self.mine[buffer]), min(8, len(self.mine[buffer])))
        if not ids:
            return
        # Of every patch its own, and exact in four bytes.
        score = float(self.count % 4096) + self.number / 4
        self.unsure = Patch(buffer, set(ids), score)
        body = {"exemplar_ids": ids, "scores": [score] * len(ids)}
        response = client.patch(f"/v1/buffers/{buffer}/exemplars", json=body)
        if self._accepted(response):
            assert response.json()["updated"] + len(response.json()["missing"]) == len(ids)
            self.scores |= {(buffer, id_): score for id_ in ids}

    def delete(self, client: httpx.Client, buffer: str) -> None:
        if not self.mine[buffer]:
            return
        class_id = self.random.choice(list(self.mine[buffer].values()))
        wanted = {id_ for id_, of in self.mine[buffer].items() if of == class_id}
        self.unsure = Removal(buffer, wanted)
        response = client.delete(
            f"/v1/buffers/{buffer}/exemplars", params={"class_id": class_id, "learner_id": self.learner}
        )
        if self._accepted(response):
            assert set(response.json()["deleted"]) <= wanted
            self._removed(buffer, wanted)

    def _removed(self, buffer: str, ids: set[int]) -> None:
        with self.known.lock:
            self.known.buffers[buffer].gone |= ids
        for id_ in ids:
            self.mine[buffer].pop(id_, None)

    def read(self, client: httpx.Client, buffer: str) -> None:
        response = client.post(f"/v1/buffers/{buffer}/sample", json={"batch_size": 8, "seed": self.count})
        assert response.status_code == 200 or response.json()["code"] == "no_matching_exemplars", response.text
        response = client.get(f"/v1/buffers/{buffer}/exemplars", params={"limit": 20, "sort": "-score"})
        assert response.status_code == 200, response.text

    def take_snapshot(self, client: httpx.Client, buffer: str) -> None:
        if sum(held == buffer for held, _ in self.snapshots) >= 2:
            # Or what they hold fills the disk limit, and later rounds find every push refused.
            self.drop_snapshot(client, buffer)
            return
        name = f"s{self.number}-{self.count}"
        self.unsure = ("snapshot", buffer, name)
        response = client.put(f"/v1/buffers/{buffer}/snapshots/{name}")
        if self._accepted(response):
            taken = Taken(response.json()["version"], response.json()["num_records"])
            self.snapshots[buffer, name] = taken
            self.unsure = None
            taken.batch = sample_from(client, buffer, name)

    def drop_snapshot(self, client: httpx.Client, buffer: str) -> None:
        names = [key for key in self.snapshots if key[0] == buffer]
        if names:
            self.unsure = ("drop snapshot", *names[0])
            response = client.delete(f"/v1/buffers/{buffer}/snapshots/{names[0][1]}")
            if self._accepted(response):
                del self.snapshots[names[0]]

    def fork(self, client: httpx.Client, buffer: str) -> None:
        name = f"f{self.number}-{self.count}"
        if len(self.forks) >= 2:
            return
        self.unsure = ("fork", name)
        response = client.post(f"/v1/buffers/{buffer}/forks", json={"name": name})
        if self._accepted(response):
            self.forks[name] = response.json()["version"]

    def drop_fork(self, client: httpx.Client, _: str) -> None:
        if self.forks:
            name = next(iter(self.forks))
            self.unsure = ("drop fork", name)
            if self._accepted(client.delete(f"/v1/buffers/{name}")):
                del self.forks[name]


def send(client: httpx.Client, push: Push) -> httpx.Response:
    headers = {**ARROW, "Idempotency-Key": push.key}
    return client.post(f"/v1/buffers/{push.buffer}/exemplars", content=encode_batch(push.records), headers=headers)


def sample_from(client: httpx.Client, buffer: str, snapshot: str) -> bytes | None:
    wanted = {"batch_size": 6, "seed": 1, "snapshot": snapshot}
    response = client.post(f"/v1/buffers/{buffer}/sample", json=wanted)
    return response.content if response.status_code == 200 else None


@contextmanager
def served(data: Path) -> Iterator[tuple[Server, httpx.Client]]:
    with Server(data) as server, server.client() as client:
        yield server, client


def test_kill_9_in_the_middle_of_everything(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_SEGMENT_BYTES", str(SEGMENT_BYTES))
    known = Known()
    clients = [Client(number, known) for number in range(CLIENTS)]
    with served(data) as (server, client):
        for name, budget in BUDGETS.items():
            put_buffer(client, budget, buffer=name, disk_limit_bytes=LIMITS[name])
        kill_under_load(server, clients)
    unanswered = 0
    for round_ in range(ROUNDS):
        with served(data) as (server, client):
            unanswered += sum(dead.unsure is not None for dead in clients)
            assert_nothing_lost(client, data, known, clients)
            clients = [dead.next_life() for dead in clients]
            if round_ < ROUNDS - 1:
                kill_under_load(server, clients)
    # The load was what it claims to be.
    pushed = {name: len(buffer.records) for name, buffer in known.buffers.items()}
    print(f"{ROUNDS} rounds: {pushed} records pushed, {sum(c.refused for c in clients)} refusals, {unanswered} unsure")
    assert min(pushed.values()) > 20 * ROUNDS
    assert known.buffers["tight"].gone
    assert unanswered > ROUNDS / 2


def kill_under_load(server: Server, clients: list[Client]) -> None:
    for client in clients:
        client.url = server.url
        client.start()
    known = clients[0].known
    enough = {name: len(buffer.records) + 25 for name, buffer in known.buffers.items()}
    end = time.monotonic() + 60
    # So much at least, however slow the machine is.
    while time.monotonic() < end and any(len(known.buffers[name].records) < least for name, least in enough.items()):
        time.sleep(0.02)
    time.sleep(random.random() * 0.6)
    server.kill()
    for client in clients:
        client.join()


def assert_nothing_lost(client: httpx.Client, data: Path, known: Known, clients: list[Client]) -> None:
    assert_files_and_counters_agree(client, data)
    assert_pushes_are_whole(clients, {name: all_records(client, buffer=name) for name in BUDGETS}, known)
    for dead in clients:
        push_again(client, dead)
    for dead in clients:
        settle_removal(client, dead, known)
        settle_snapshots_and_forks(client, dead)
    for name, acknowledged in known.buffers.items():
        found = {record.exemplar_id: record for record in all_records(client, buffer=name)}
        assert set(found) == set(acknowledged.records) - acknowledged.gone
        assert all(record.body == acknowledged.records[id_].body for id_, record in found.items())
        for dead in clients:
            assert_scores(dead, name, found, acknowledged.records)
    assert_files_and_counters_agree(client, data)


def assert_files_and_counters_agree(client: httpx.Client, data: Path) -> None:
    assert not disk.orphans(data)
    # The process died, not the power: the mark is exact.
    mark = read_mark(data / "generation")
    with reading(data) as index:
        assert mark is not None
        assert (mark.store_id, mark.changes) == index.execute("SELECT store_id, changes FROM store").fetchone()
    stored = disk.read_store(data)
    names = [buffer["name"] for buffer in client.get("/v1/buffers?limit=1000").json()["buffers"]]
    assert names == sorted(stored)
    for name, buffer in stored.items():
        stats = client.get(f"/v1/buffers/{name}/stats").json()
        assert all(record.is_whole for record in buffer.live.values())
        assert stats["bytes_used"] == buffer.row["bytes_used"] == buffer.bytes_used <= stats["budget_bytes"]
        assert stats["num_records"] == buffer.row["num_records"] == len(buffer.live)
        assert stats["version"] == buffer.row["version"]
        assert stats["disk_bytes"] == buffer.file_bytes + stats["index_bytes"] <= stats["disk_limit_bytes"]
        if name in LIMITS:
            assert stats["disk_limit_bytes"] == LIMITS[name]
        assert stats["orphans"] == 0


def assert_pushes_are_whole(clients: list[Client], found: dict[str, list[Record]], known: Known) -> None:
    """What is there and was never acknowledged comes from pushes without an answer: of each all, or nothing.

    Where nothing is evicted, that is; elsewhere an answer given later says it.
    """
    strange = [r.body for r in found["roomy"] if r.exemplar_id not in known.buffers["roomy"].records]
    pushes = [c.unsure for c in clients if isinstance(c.unsure, Push) and c.unsure.buffer == "roomy"]
    for push in pushes:
        there = [record.body in strange for record in push.records]
        assert all(there) or not any(there), f"{sum(there)} of {len(there)} records of a push"
        strange = [body for body in strange if body not in {record.body for record in push.records}]
    assert not strange


def push_again(client: httpx.Client, dead: Client) -> None:
    """The push without an answer happens now, if it has not; the last with one is replayed."""
    if dead.last is not None and dead.last.answer is not None:
        replayed = send(client, dead.last)
        assert replayed.headers["Idempotency-Replayed"] == "true"
        assert replayed.text == dead.last.answer
    push = dead.unsure
    if not isinstance(push, Push):
        return
    first, again = send(client, push), send(client, push)
    if first.status_code == 507:
        return
    assert first.status_code == 200, first.text
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.text == first.text
    push.answer = first.text
    dead._own(push, first.json())


def settle_removal(client: httpx.Client, dead: Client, known: Known) -> None:
    """A deletion without an answer has removed all, or nothing."""
    if not isinstance(dead.unsure, Removal):
        return
    buffer = dead.unsure.buffer
    found = {record.exemplar_id for record in all_records(client, buffer=buffer)}
    left = dead.unsure.ids - known.buffers[buffer].gone
    assert left <= found or not left & found, f"{len(left & found)} of {len(left)} were deleted"
    if left and not left & found:
        dead._removed(buffer, dead.unsure.ids)


def settle_snapshots_and_forks(client: httpx.Client, dead: Client) -> None:
    kind, *what = dead.unsure if isinstance(dead.unsure, tuple) else (None,)
    existing = {
        (buffer, snapshot["name"]): snapshot
        for buffer in BUDGETS
        for snapshot in client.get(f"/v1/buffers/{buffer}/snapshots?limit=1000").json()["snapshots"]
        if snapshot["name"].startswith(f"s{dead.number}-")
    }
    if kind == "drop snapshot" and tuple(what) not in existing:
        del dead.snapshots[what[0], what[1]]
    extra = set(existing) - set(dead.snapshots)
    assert extra <= ({tuple(what)} if kind == "snapshot" else set())
    assert not set(dead.snapshots) - set(existing)
    for key, taken in dead.snapshots.items():
        assert (existing[key]["version"], existing[key]["num_records"]) == (taken.version, taken.num_records)
        assert len(all_records(client, buffer=key[0], snapshot=key[1])) == taken.num_records
        if taken.batch is not None:
            assert sample_from(client, *key) == taken.batch
    for buffer, name in extra:
        dead.snapshots[buffer, name] = Taken(existing[buffer, name]["version"], existing[buffer, name]["num_records"])

    forks = {
        b["name"]
        for b in client.get("/v1/buffers?limit=1000").json()["buffers"]
        if b["name"].startswith(f"f{dead.number}-")
    }
    if kind == "drop fork" and what[0] not in forks:
        del dead.forks[what[0]]
    assert forks - set(dead.forks) <= ({what[0]} if kind == "fork" else set())
    for name in set(dead.forks) | forks:
        version = client.get(f"/v1/buffers/{name}/stats").json()["version"]
        assert dead.forks.setdefault(name, version) == version


def assert_scores(dead: Client, buffer: str, found: dict[int, Record], pushed: dict[int, Record]) -> None:
    """The last score that was acknowledged, or that of the one patch without an answer, on all or on none."""
    patch = dead.unsure if isinstance(dead.unsure, Patch) and dead.unsure.buffer == buffer else None
    patched = {id_ for id_ in patch.ids & set(found) if found[id_].score == patch.score} if patch else set()
    assert not patch or patched in (set(), patch.ids & set(found))
    if patch and patched:
        dead.scores |= {(buffer, id_): patch.score for id_ in patch.ids}
    for id_, record in found.items():
        if record.learner_id == dead.learner:
            assert record.score == dead.scores.get((buffer, id_), pushed[id_].score)
