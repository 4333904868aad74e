"""Rounds of faults under two replicas: learners go on meanwhile, and then the store is what the model says.

A replica is killed, PostgreSQL ends as in a crash and comes back, the object store is away, nothing passes between a
replica and the database in one way or in both. Deletes, compaction, snapshots that expire, forks, sweeps and erasures
go on.
As root on Linux, one of the replicas reaches the database through a network of its own, which loses packets in silence.

``FAULT_ROUNDS`` says how many; each is of buffers of its own, and follows from its number. So
``FAULT_SEED=17 FAULT_ROUNDS=1`` does round 17 again, and a long run goes on where it was ended. ``make faults`` asks
for many.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import Record
from memory_service.store.admin.verify import verify
from memory_service.store.directory import Places
from memory_service.store.segments.copies import key_of
from tests.links import Link
from tests.memory_service.helpers import all_records
from tests.memory_service.replica_model import SECONDS, Learner, Model, Push, Removal, insist
from tests.memory_service.replica_site import (
    FAULTS,
    LEARNER_BYTES,
    SEGMENT_BYTES,
    TOTAL_BUDGET_BYTES,
    Site,
    cut_off,
    objects_away,
    overdue,
)
from tests.memory_service.searching import files_with, objects_with, tables_with
from tests.network import Network, NoNetworkError, Wire
from tests.objects import ObjectStore, use
from tests.postgres import PostgresServer

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("FAULT_SEED", "0"))
LEARNERS = 4
MIB = 2**20
ROOMY = {"budget_bytes": 64 * MIB, "disk_limit_bytes": 160 * MIB}
TIGHT = {"budget_bytes": 2 * MIB, "disk_limit_bytes": 2 * MIB + 17 * SEGMENT_BYTES}
POLICIES = ("reservoir", "class_balanced", "lowest_score", "fifo", "class_balanced")
NEVER = (
    "lost",
    "doubled",
    "resurrected",
    "not_erased",
    "strange",
    "torn",
    "older",
    "budget_violations",
    "miscounted",
    "orphans_left",
)
SEARCHED_EVERY = 15_000
"""Bytes of an erased record: there is much to search."""

pytestmark = pytest.mark.timeout(600 + 120 * ROUNDS)


@pytest.fixture
def site(
    tmp_path: Path, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """One replica is behind a socket that can be held, the other one behind a network of the database's own."""
    use(object_store, monkeypatch)
    with ExitStack() as stack:
        try:
            network = Network()
            stack.callback(network.remove)
            wires = [Wire(network, 1)]
            postgres = PostgresServer(network=network.file)
            stack.callback(postgres.remove)
        except NoNetworkError as error:
            print(f"no packets are lost, sockets are held alone: {error}")
            wires = []
            postgres = request.getfixturevalue("postgres")
        links: list[Link | Wire] = [*(Link(Path(postgres.socket)) for _ in range(2 - len(wires))), *wires]
        for link in links:
            stack.callback(link.remove)
        yield Site(tmp_path, postgres, links, object_store, stack)


@contextmanager
def faults(site: Site, rng: random.Random, number: int) -> Iterator[list[str]]:
    """One of each kind in turn, and perhaps a second one within it, which is over first. Neither kills what is to be
    started while the other is amiss, and what is away cannot go."""
    first = FAULTS[number % len(FAULTS)]
    within = (cut_off, overdue) if first is objects_away else (cut_off, overdue, objects_away)
    with ExitStack() as stack:
        said = [stack.enter_context(first(site, rng))]
        if rng.random() < 0.3:
            time.sleep(rng.random() / 2)
            said.append(stack.enter_context(rng.choice(within)(site, rng)))
        yield said


def duration(rng: random.Random) -> float:
    """Seconds that a fault lasts: now and then ten, or beyond what connections bear."""
    return rng.choices([0.1, 0.4, 1.0, 10.0, 30.0], [32, 32, 32, 3, 1])[0]


# What must be so, once all is calm


class Checks:
    """Of one round, when nothing is amiss any more and no request is under way."""

    def __init__(self, site: Site, model: Model, stack: ExitStack) -> None:
        self.site, self.model, self.found = site, model, model.found
        self.clients = [stack.enter_context(httpx.Client(base_url=url, timeout=SECONDS)) for url in site.urls]

    def read(self, name: str, **params: str) -> dict[int, Record]:
        """Of a buffer, through both: the same."""
        one, two = (all_records(client, buffer=name, **params) for client in self.clients)
        held = {record.exemplar_id: record for record in one}
        self.found["doubled"] += len(one) - len(held)
        assert [(r.exemplar_id, r.body) for r in one] == [(r.exemplar_id, r.body) for r in two]
        return held

    def whole(self, learners: list[Learner]) -> None:
        """Of a push without an answer all is there, or nothing; where nothing is evicted."""
        for name in self.model.buffers:
            if not name.startswith("roomy"):
                continue
            bodies = {record.body for record in self.read(name).values()}
            for unsure in (each for learner in learners for each in learner.unsure):
                if isinstance(unsure, Push) and unsure.buffer == name:
                    there = sum(record.body in bodies for record in unsure.records)
                    self.found["torn"] += there not in (0, len(unsure.records))
                elif isinstance(unsure, Removal) and unsure.buffer == name:
                    held = self.read(name, phase=str(unsure.phase))
                    self.found["torn"] += len(held) not in (0, len(unsure.ids))

    def erased_is_gone(self, *, also_late: bool = False) -> None:
        """From all places where it was, once all replicas have said so.

        Args:
            also_late: from objects that were put behind their deadline, too.
        """
        if not any(known.erased for known in self.model.buffers.values()):
            return
        insist(lambda: not any(kept["unconfirmed"] for kept in self.receipts()))
        kept = [each["receipt"] for each in self.receipts()]
        gone: list[Record] = []
        for known in self.model.buffers.values():
            self.found["lost"] += sum(told not in kept for told in known.receipts)
            gone += [known.records[id_] for id_ in known.erased]
        late = set() if also_late else {key_of(stem) for stem in self.site.stems("intents")}
        tables = tables_with(self.site.postgres, gone, SEARCHED_EVERY)
        left = set(filter(self.site.is_left_by_crash, tables))
        self.model.counts["files that the database's end left"] += len(left)
        for found in (
            objects_with(self.site.store, self.site.segments, gone, SEARCHED_EVERY) - late,
            tables - left,
            files_with(self.site.directory, gone, SEARCHED_EVERY),
        ):
            self.note_erased("files", found)

    def note_erased(self, where: str, found: set[Any]) -> None:
        """What was erased is there."""
        self.found["not_erased"] += len(found)
        if found:
            print(f"erased, and still in {where}: {sorted(found)}")

    def receipts(self) -> list[dict[str, Any]]:
        """Of this round's erasures."""
        pages = [
            self.clients[0].get("/v1/erasures", params={"buffer": name, "limit": 1000}).json()["receipts"]
            for name in self.model.buffers
        ]
        return [kept for page in pages for kept in page]

    def agree(self) -> None:
        """What is held is what the model says, through both."""
        for name, known in self.model.buffers.items():
            held, expected = self.read(name), known.records.keys() - known.gone
            self.found["lost"] += len(expected - held.keys())
            self.found["lost"] += sum(held[id_].body != known.records[id_].body for id_ in held.keys() & expected)
            self.found["resurrected"] += len(held.keys() & known.gone)
            self.note_erased(name, held.keys() & known.erased)
            self.found["strange"] += len(held.keys() - known.records.keys())
            bodies = Counter(record.body for record in held.values())
            self.found["doubled"] += bodies.total() - len(bodies)
            self.found["strange"] += sum(record.body in bodies for record in known.refused)
            stats = [client.get(f"/v1/buffers/{name}/stats").json() for client in self.clients]
            for each in stats:
                self.model.note_stats(each)
                assert (each["version"], each["num_records"]) == (stats[0]["version"], len(held))
            for step in range(3 if held else 0):
                wanted = {"batch_size": 8, "seed": 5, "step": step}
                one, two = (client.post(f"/v1/buffers/{name}/sample", json=wanted) for client in self.clients)
                assert (one.status_code, one.content) == (200, two.content), one.text
            self.snapshots_and_forks(name)
        self.within_quotas()

    def within_quotas(self) -> None:
        """What all buffers have together is counted, and is no more than it may be."""
        buffers = self.site.keeper.buffers()
        held = sum((Counter(buffer.bytes_by_learner()) for buffer in buffers), Counter[str]())
        counted = dict(self.site.rows("SELECT learner_id, num_bytes FROM learner_bytes WHERE num_bytes <> 0"))
        self.found["budget_violations"] += sum(buffer.config.most_bytes for buffer in buffers) > TOTAL_BUDGET_BYTES
        self.found["budget_violations"] += sum(num_bytes > LEARNER_BYTES for num_bytes in held.values())
        self.found["miscounted"] += len(counted.items() ^ held.items())

    def snapshots_and_forks(self, name: str) -> None:
        known = self.model.buffers[name]
        one, two = (client.get(f"/v1/buffers/{name}/snapshots").json()["snapshots"] for client in self.clients)
        assert one == two
        assert len(one) <= 2
        for snapshot in one:
            held = self.read(name, snapshot=snapshot["name"])
            self.note_erased(f"{name}@{snapshot['name']}", held.keys() & known.erased)
            self.found["lost"] += abs(snapshot["num_records"] - len(held))
            self.found["strange"] += len(held.keys() - known.records.keys())
            self.found["lost"] += sum(held[id_].body != known.records[id_].body for id_ in held.keys() & known.records)
            if snapshot["name"] in known.snapshots:
                shown = snapshot["num_records"] + snapshot["erased"]
                assert known.snapshots[snapshot["name"]] == (snapshot["version"], shown)
        for fork, version in known.forks.items():
            if version >= 0:
                held = self.read(fork)
                self.found["strange"] += len(held.keys() - known.records.keys())
                self.note_erased(fork, held.keys() & known.erased)
                now = self.clients[0].get(f"/v1/buffers/{fork}").json()["version"]
                # Erasing reaches it.
                assert version == now or (version < now and known.erased)

    def objects_are_named(self) -> None:
        """Before any deadline the index names all that is in the bucket; after it, nothing but segments is left."""
        objects = self.site.objects()
        self.note_orphans(objects - self.site.stems("segments") - self.site.stems("intents"))
        self.site.sweep_all()
        assert self.site.objects() ^ self.site.stems("segments WHERE sealed") == set()

    def note_orphans(self, stems: set[str]) -> None:
        self.found["orphans_left"] += len(stems)
        for stem in stems:
            rows = self.site.rows(f"SELECT id, sealed FROM segments WHERE stem = '{stem}'")
            print(f"orphan {stem}: object {stem in self.site.objects()}, segment {rows}")

    def verified(self) -> None:
        report = verify(self.site.directory / "keeper", Places(self.site.index, self.site.segments))
        assert report.sound, report.problems

    def nothing_is_left(self) -> None:
        """Of buffers that are deleted: their forks are whole until they are, too."""
        forks = [fork for known in self.model.buffers.values() for fork, version in known.forks.items() if version >= 0]
        before = {fork: self.read(fork) for fork in forks}
        for name in self.model.buffers:
            assert self.clients[0].delete(f"/v1/buffers/{name}").status_code == 204
        for fork, held in before.items():
            after = self.read(fork)
            self.found["lost"] += len(held.keys() - after.keys())
        for known in self.model.buffers.values():
            for fork, version in known.forks.items():
                status = self.clients[1].delete(f"/v1/buffers/{fork}").status_code
                assert status == 204 or (status == 404 and version < 0)
        for client in self.clients:
            assert client.get("/v1/buffers").json()["buffers"] == []
        self.within_quotas()
        self.site.sweep_all()
        self.note_orphans(self.site.objects() | self.site.stems("segments"))


def run_round(site: Site, number: int) -> tuple[list[str], Counter[str]]:
    """What was amiss, and how often something was done."""
    began = time.monotonic()
    rng = random.Random(number)
    model = Model(site.urls, (f"roomy-{number}", f"tight-{number}"))
    for name, settings in zip(model.buffers, (ROOMY, TIGHT), strict=True):
        made = {"retain_snapshots": 2, "eviction": POLICIES[number % len(POLICIES)], **settings}
        if name.startswith("roomy"):
            made["eviction"] = "fifo"
        answered = httpx.put(f"{rng.choice(site.urls)}/v1/buffers/{name}", json=made, timeout=SECONDS)
        assert answered.status_code == 201, answered.text
    learners = [Learner(n, number, model, rng.randrange(8, 16)) for n in range(LEARNERS)]
    with httpx.Client(timeout=SECONDS) as client:
        learners[0].fill(client, f"tight-{number}")
    with at_work(learners):
        time.sleep(rng.random() / 2)
        # Amid the faults, and not before them alone.
        for learner in learners[: rng.randrange(3)]:
            learner.due.append(learner.erase)
        with faults(site, rng, number) as said:
            seconds = duration(rng)
            print(f"round {number}: {', '.join(said)} for {seconds:g} s", end="", flush=True)
            time.sleep(seconds)
    insist(lambda: all(is_ready(url) for url in site.urls))
    model.counts["unsure"] = sum(len(learner.unsure) for learner in learners)
    with ExitStack() as stack:
        checks = Checks(site, model, stack)
        for learner in learners:
            learner.end_erasing()
        checks.erased_is_gone()
        checks.whole(learners)
        for learner in learners:
            learner.settle()
        checks.agree()
        checks.objects_are_named()
        checks.erased_is_gone(also_late=True)
        checks.agree()
        if number % 5 == 0:
            checks.verified()
        checks.nothing_is_left()
    print(f", {time.monotonic() - began:.1f} s in all: {dict(model.counts)}", flush=True)
    assert not +model.found, f"{dict(+model.found)} in round {number}"
    return said, model.counts


@contextmanager
def at_work(learners: list[Learner]) -> Iterator[None]:
    """What they have begun is answered, or known not to be, behind the block."""
    for learner in learners:
        learner.start()
    try:
        yield
    finally:
        for learner in learners:
            learner.done.set()
        for learner in learners:
            learner.join()
    for learner in learners:
        if learner.error is not None:
            raise learner.error


def is_ready(url: str) -> bool:
    return httpx.get(f"{url}/readyz", timeout=SECONDS).status_code == 200


def test_after_each_fault_the_store_is_what_its_learners_were_told(site: Site) -> None:
    began, counts, kinds = time.monotonic(), Counter[str](), Counter[str]()
    done = 0
    try:
        for number in itertools.islice(itertools.count(SEED), ROUNDS):
            said, counted = run_round(site, number)
            done += 1
            kinds.update(said)
            counts += counted
    finally:
        if done < ROUNDS:
            print(f"again: FAULT_SEED={SEED + done} FAULT_ROUNDS=1")
        never = dict.fromkeys(NEVER, 0) if done else {}
        told = {"rounds": done, **never, "faults": kinds, **counts, "seconds": round(time.monotonic() - began)}
        print(json.dumps(told))
    assert counts["pushed"] > 12 * ROUNDS
