"""Learners of two replicas, and a model that knows what they were told, what they were not, and what must follow."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from memory_format import Record, decode_batch, encode_batch
from tests.memory_service.helpers import ARROW, make_exemplar

UNSURE = (500, 502, 503, 504)
"""Whoever is answered this, or not at all, does not know whether it was done."""
REFUSED = (429, 507)
"""And this: it was not."""
SECONDS = 90
"""Nobody is left without an answer for longer."""
CALM_SECONDS = 60
"""Within which all is answered again, once nothing is amiss: the session of who was cut off may live for a while."""


@dataclass
class Push:
    buffer: str
    key: str
    phase: int
    learner: str
    records: list[Record]


@dataclass
class Removal:
    """Of all that one push has brought."""

    buffer: str
    phase: int
    learner: str
    ids: set[int]
    erase: bool = False


@dataclass
class Known:
    """What has happened to one buffer, as far as anybody was told."""

    records: dict[int, Record] = field(default_factory=dict)
    """Acknowledged, by id; whatever became of them."""
    gone: set[int] = field(default_factory=set)
    """Evicted, deleted or erased."""
    named: set[int] = field(default_factory=set)
    """By an answer that says it was this that evicted or deleted them: each by one."""
    erasing: set[int] = field(default_factory=set)
    """Somebody has asked for them to be erased."""
    erased: set[int] = field(default_factory=set)
    """And was told that they are."""
    receipts: list[dict[str, Any]] = field(default_factory=list)
    refused: list[Record] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    """Of the pushes that kept something: each has its own."""
    snapshots: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name -> version and number of records, as answered."""
    forks: dict[str, int] = field(default_factory=dict)
    """Name -> version."""


class Model:
    """Shared by all learners of a round.

    Args:
        urls: of the replicas; changed where one is started anew.
    """

    def __init__(self, urls: list[str], buffers: Sequence[str]) -> None:
        self.urls = urls
        self.buffers = {name: Known() for name in buffers}
        self.lock = threading.Lock()
        self.found: Counter[str] = Counter()
        """What must not be, and how often it was."""
        self.counts: Counter[str] = Counter()

    def note_push(self, push: Push, answer: dict[str, Any]) -> set[int]:
        """Returns the ids of what was kept."""
        pairs = {id_: record for id_, record in zip(answer["exemplar_ids"], push.records, strict=True) if id_}
        with self.lock:
            known = self.buffers[push.buffer]
            self.found["doubled"] += len(known.records.keys() & pairs.keys())
            known.records |= pairs
            self.note_gone(known, set(answer["evicted"]))
            self.counts["evicted"] += len(answer["evicted"])
            if pairs:
                self.found["doubled"] += answer["version"] in known.versions
                known.versions.append(answer["version"])
            self.found["budget_violations"] += answer["bytes_used"] > answer["budget_bytes"]
        return set(pairs)

    def note_gone(self, known: Known, ids: set[int]) -> None:
        """An answer says that these were evicted or deleted by what it answers. For the holder of the lock."""
        self.found["doubled"] += len(known.named & ids)
        known.named |= ids
        known.gone |= ids

    def note_stats(self, stats: dict[str, Any]) -> None:
        over = stats["bytes_used"] > stats["budget_bytes"] or stats["disk_bytes"] > stats["disk_limit_bytes"]
        with self.lock:
            self.found["budget_violations"] += over


class Learner(threading.Thread):
    """Pushes, deletes, draws, takes snapshots and forks, through either replica, until it is told to end.

    Args:
        seed: what it does follows from it; when, from the machine.
        least: operations that it tries at least.
    """

    def __init__(self, number: int, seed: int, model: Model, least: int) -> None:
        super().__init__(name=f"learner-{number}")
        self.number, self.model, self.least = number, model, least
        self.random = random.Random(f"{seed}-{number}")
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.unsure: list[Push | Removal] = []
        self.due: deque[Callable[[httpx.Client, str], None]] = deque()
        """What it does next."""
        self._mine: dict[tuple[str, int], set[int]] = {}
        self._deleted: dict[tuple[str, int], set[int]] = {}
        self._count = 0

    def run(self) -> None:
        kinds: list[tuple[int, Callable[[httpx.Client, str], None]]] = [
            *((12, self.push), (3, self.delete), (4, self.draw), (2, self.look)),
            *((2, self.take_snapshot), (1, self.drop_snapshot), (1, self.fork), (1, self.erase)),
        ]
        weights = [weight for weight, _ in kinds]
        try:
            with httpx.Client(timeout=SECONDS) as client:
                while self._count < self.least or not self.done.is_set():
                    self._count += 1
                    (operation,) = self.random.choices([operation for _, operation in kinds], weights)
                    if self.due:
                        operation = self.due.popleft()
                    operation(client, self.random.choice(list(self.model.buffers)))
        except BaseException as error:
            self.error = error

    def ask(self, client: httpx.Client, method: str, path: str, *also: int, **given: Any) -> httpx.Response | None:
        """The answer of either replica; None where it does not say what was done.

        Args:
            also: statuses that are in order, beside success.
        """
        url = self.random.choice(self.model.urls)
        try:
            answer = client.request(method, f"{url}/v1/buffers{path}", **given)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            self.model.counts["no answer"] += 1
            time.sleep(0.03)
            return None
        if answer.status_code in UNSURE:
            problem = answer.json()
            assert problem["code"] in ("storage_failed", "replica_behind", "stopping"), answer.text
            self.model.counts[problem["code"]] += 1
            time.sleep(0.03)
            return None
        assert answer.is_success or answer.status_code in (*REFUSED, *also), (method, path, answer.text)
        return answer

    # What changes something

    def push(self, client: httpx.Client, buffer: str) -> None:
        pads = [self.random.choice([100, 20_000, 58_000]) for _ in range(self.random.choice([1, 4, 9]))]
        self.push_these(client, buffer, pads, self.random.choice([1, 3]))

    def push_these(self, client: httpx.Client, buffer: str, pads: Sequence[int], tries: int) -> None:
        self._count += 1
        phase = 1000 * self.number + self._count
        learner = f"learner-{self.number}"
        # Of bytes that nothing compresses: they are searched for.
        noise = [self.random.randbytes(pad // 2).hex() for pad in pads]
        records = [
            make_exemplar(i % 5, i, seed=100 * phase + i, learner_id=learner, phase=phase, user_json={"noise": of_it})
            for i, of_it in enumerate(noise)
        ]
        push = Push(buffer, f"{self.number}-{phase}", phase, learner, records)
        for _ in range(tries):
            if self.send(client, push):
                return
        self.unsure.append(push)

    def fill(self, client: httpx.Client, buffer: str) -> None:
        """Until pushes must rewrite segments, as each has a few records that live on."""
        for turn in range(4):
            for _ in range(2):
                self.push_these(client, buffer, [58_000] * 14, 1)
            if turn < 3:
                where = {"class_id": [1, 2, 3, 4], "learner_id": f"learner-{self.number}"}
                answer = self.ask(client, "DELETE", f"/{buffer}/exemplars", params=where)
                assert answer is not None
                with self.model.lock:
                    self.model.note_gone(self.model.buffers[buffer], set(answer.json()["deleted"]))

    def send(self, client: httpx.Client, push: Push) -> bool:
        """Whether it is known what became of it."""
        headers = {**ARROW, "Idempotency-Key": push.key}
        content = encode_batch(push.records)
        answer = self.ask(client, "POST", f"/{push.buffer}/exemplars", content=content, headers=headers)
        if answer is None:
            return False
        if not answer.is_success:
            self.model.counts["refused"] += 1
            with self.model.lock:
                self.model.buffers[push.buffer].refused += push.records
            return True
        self.model.counts["pushed"] += 1
        self._mine[push.buffer, push.phase] = self.model.note_push(push, answer.json())
        return True

    def delete(self, client: httpx.Client, buffer: str) -> None:
        self._remove_some(client, buffer, self._mine)

    def erase(self, client: httpx.Client, buffer: str) -> None:
        """What is live, or what was deleted before."""
        self._remove_some(client, buffer, self._deleted if self.random.random() < 0.3 else self._mine, erase=True)

    def _remove_some(
        self, client: httpx.Client, buffer: str, of: dict[tuple[str, int], set[int]], *, erase: bool = False
    ) -> None:
        phases = [phase for name, phase in of if name == buffer]
        if not phases:
            return
        phase = self.random.choice(phases)
        removal = Removal(buffer, phase, f"learner-{self.number}", of.pop((buffer, phase)), erase)
        if not self.remove(client, removal):
            self.unsure.append(removal)

    def remove(self, client: httpx.Client, removal: Removal) -> bool:
        """Whether it is known to be done."""
        where: dict[str, Any] = {"phase": removal.phase, "learner_id": removal.learner}
        known = self.model.buffers[removal.buffer]
        if removal.erase:
            where["erase"] = "true"
            with self.model.lock:
                known.erasing |= removal.ids
        answer = self.ask(client, "DELETE", f"/{removal.buffer}/exemplars", params=where)
        if answer is None or not answer.is_success:
            # What is in the way of an erasure may have come when that was begun.
            return answer is not None and not removal.erase
        said = answer.json()
        self.model.counts["erased" if removal.erase else "deleted"] += 1
        with self.model.lock:
            known.gone |= removal.ids
            if removal.erase:
                known.erased |= removal.ids
                # Also what an earlier erasure did not end.
                assert set(said["deleted"]) <= known.erasing
                if said["receipt"] is not None:
                    known.receipts.append(said["receipt"])
                    self.model.counts["erased while a replica was away"] += bool(said["receipt"]["unconfirmed"])
            else:
                assert set(said["deleted"]) <= removal.ids
                self.model.note_gone(known, set(said["deleted"]))
                self._deleted[removal.buffer, removal.phase] = removal.ids
        return True

    def take_snapshot(self, client: httpx.Client, buffer: str) -> None:
        name = f"s{self.number}-{self._count}"
        answer = self.ask(client, "PUT", f"/{buffer}/snapshots/{name}")
        if answer is not None and answer.is_success:
            said = answer.json()
            self.model.buffers[buffer].snapshots[name] = (said["version"], said["num_records"] + said["erased"])

    def drop_snapshot(self, client: httpx.Client, buffer: str) -> None:
        names = list(self.model.buffers[buffer].snapshots)
        if names:
            self.ask(client, "DELETE", f"/{buffer}/snapshots/{self.random.choice(names)}", 404)

    def fork(self, client: httpx.Client, buffer: str) -> None:
        """And go on with it, and delete it, now or with the round."""
        name = f"{buffer}-f{self.number}-{self._count}"
        forks = self.model.buffers[buffer].forks
        # Whether or not there is an answer, it may be there.
        forks[name] = -1
        answer = self.ask(client, "POST", f"/{buffer}/forks", json={"name": name})
        if answer is not None and answer.is_success:
            forks[name] = answer.json()["version"]
            if self.random.random() < 0.5:
                forks[name] = -1
                self.ask(client, "DELETE", f"/{name}", 404)

    # What only looks

    def draw(self, client: httpx.Client, buffer: str) -> None:
        """No draw is of an older version than what this learner was told before it, or has what was gone by then."""
        known = self.model.buffers[buffer]
        with self.model.lock:
            before, gone, erased = max(known.versions, default=0), set(known.gone), set(known.erased)
        wanted = {"batch_size": 6, "seed": 1, "step": self._count}
        answer = self.ask(client, "POST", f"/{buffer}/sample", 404, json=wanted)
        if answer is not None and answer.is_success:
            self.model.found["older"] += int(answer.headers["Exemplar-Memory-Version"]) < before
            drawn = {record.exemplar_id for record in decode_batch(answer.content)}
            self.model.found["resurrected"] += len(drawn & gone)
            self.model.found["not_erased"] += len(drawn & erased)
            self.model.counts["drawn"] += 1

    def look(self, client: httpx.Client, buffer: str) -> None:
        answer = self.ask(client, "GET", f"/{buffer}/stats")
        if answer is not None and answer.is_success:
            self.model.note_stats(answer.json())

    # Once all is calm

    def end_erasing(self) -> None:
        """Replicas go on with an erasure by themselves."""
        self._insist(self.remove, [each for each in self.unsure if isinstance(each, Removal) and each.erase])

    def settle(self) -> None:
        """Find out what became of all else that nobody has said."""
        self._insist(self.send, [each for each in self.unsure if isinstance(each, Push)])
        self._insist(self.remove, [each for each in self.unsure if isinstance(each, Removal) and not each.erase])

    def _insist(self, do: Callable[[httpx.Client, Any], bool], these: Sequence[Push | Removal]) -> None:
        with httpx.Client(timeout=SECONDS) as client:
            for each in these:
                insist(partial(do, client, each))


def insist(do: Callable[[], Any]) -> Any:
    """Again and again until it gives something. Raises ``TimeoutError``."""
    end = time.monotonic() + CALM_SECONDS
    while not (given := do()):
        if time.monotonic() > end:
            raise TimeoutError(f"no answer for {CALM_SECONDS} s although nothing is amiss")
        time.sleep(0.05)
    return given
