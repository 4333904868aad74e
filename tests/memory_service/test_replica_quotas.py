"""What all buffers of a store may have together holds for all replicas together: never exceeded, and used in full."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from memory_format import BudgetError, StorageError, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.admin.verify import verify
from memory_service.store.directory import Places
from memory_service.store.index import quotas, tables, taking_part
from memory_service.store.index.base import Reading
from memory_service.store.pure.model import Budget, Options
from memory_service.store.segments import bucket
from memory_service.store.shared import SharedStore
from tests.memory_service.helpers import make_exemplar
from tests.memory_service.test_replica_processes import ARROW, Replicas, replicas
from tests.objects import ObjectStore, use
from tests.postgres import PostgresServer

__all__ = ["replicas"]

Pair = tuple[SharedStore, SharedStore]
CHARGE = make_exemplar(seed=1, learner_id="left").charge
ALL = 24
"""Records that a learner may have."""


@pytest.fixture
def open_pair(tmp_path: Path, postgres: PostgresServer) -> Iterator[Callable[[Options], Pair]]:
    """Opens two replicas in one process."""
    segments = f"memory://{uuid4().hex}"
    places = Places(postgres.new_schema(), segments, replicas=True)
    with ExitStack() as stack:
        stack.callback(bucket.forget_memory, segments)

        def opened(options: Options) -> Pair:
            first, second = (
                stack.enter_context(SharedStore(tmp_path / name, options, open_ports=places)) for name in ("one", "two")
            )
            return first, second

        yield opened


def at_once(number: int, work: Callable[[int], object]) -> None:
    """In so many threads."""
    together, failed = threading.Barrier(number), []

    def run(place: int) -> None:
        together.wait()
        try:
            work(place)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_budgets_of_all_replicas_together_have_a_quota(open_pair: Callable[[Options], Pair]) -> None:
    pair = open_pair(Options(total_budget_bytes=100_000))
    for number, store in enumerate(pair):
        store.create_buffer(f"grows-{number}", budget_bytes=10_000)
    refused: list[str] = []

    def make(place: int) -> None:
        store = pair[place % 2]
        try:
            if place < 4:
                store.create_buffer(f"b{place}", budget_bytes=20_000)
            elif place < 6:
                store.fork(f"grows-{1 - place % 2}", f"fork-{place}")
            else:
                budget = Budget(budget_bytes=40_000)
                store.buffer(f"grows-{place - 6}").configure(lambda config: replace(config, budget=budget))
        except BudgetError as error:
            refused.append(error.code)

    def total() -> int:
        found = {tuple((buffer.name, buffer.config.budget_bytes) for buffer in store.buffers()) for store in pair}
        assert len(found) == 1
        return sum(budget_bytes for _, budget_bytes in found.pop())

    at_once(8, make)
    assert set(refused) == {"quota_exceeded"}
    used = total()
    assert 60_000 < used <= 100_000
    if used < 100_000:
        pair[0].create_buffer("rest", budget_bytes=100_000 - used)
    for store in pair:
        with pytest.raises(BudgetError, match="0 of the 100000") as error:
            store.create_buffer("more", budget_bytes=1)
        assert error.value.details == {"requested_bytes": 1, "free_bytes": 0, "limit": 100_000}
    # What one deletes is free for the other.
    pair[0].delete_buffer("grows-0")
    pair[1].create_buffer("more", budget_bytes=100_000 - total())
    assert total() == 100_000


def of(learner_id: str, turn: int, number: int = 1) -> bytes:
    """All of them with one charge."""
    ranks = range(100 * turn, 100 * turn + number)
    return encode_batch([make_exemplar(0, rank, seed=1, learner_id=learner_id) for rank in ranks])


def expect_counted(store: Store) -> dict[str, int]:
    """The index says of each learner what the records of all buffers come to."""
    held: Counter[str] = Counter()
    for buffer in store.buffers():
        held.update(buffer.bytes_by_learner())
    with store._index.reading() as reading:
        rows = reading.connection.execute(
            sa.select(tables.learner_bytes.c.learner_id, tables.learner_bytes.c.num_bytes)
        )
        counted = {row.learner_id: row.num_bytes for row in rows if row.num_bytes}
    assert counted == held
    return counted


def push_and_delete(store: Store, number: int) -> None:
    buffer = store.buffer("b")
    for turn in range(12):
        pushed = json.loads(buffer.push(of("left", 10 + 12 * number + turn)).document)
        buffer.delete(pushed["exemplar_ids"])


def refused(buffer: Buffer, body: bytes, **free: int) -> None:
    for dry_run in (True, False):
        with pytest.raises(BudgetError) as error:
            buffer.push(body, dry_run=dry_run)
        assert error.value.code == "learner_quota_exceeded"
        assert error.value.details == {"limit": ALL * CHARGE, **free}


def test_bytes_of_a_learner_are_those_in_all_replicas(open_pair: Callable[[Options], Pair], tmp_path: Path) -> None:
    first, second = pair = open_pair(Options(learner_bytes=ALL * CHARGE))
    for name in "bc":
        first.create_buffer(name, budget_bytes=100 * CHARGE, eviction="fifo")
    first.buffer("b").push(of("left", 1, 10))
    second.buffer("c").push(of("left", 2, 10))
    refused(first.buffer("b"), of("left", 3, 5), requested_bytes=5 * CHARGE, free_bytes=4 * CHARGE)
    second.buffer("b").push(of("right", 4, 10))
    assert expect_counted(first) == {"left": 20 * CHARGE, "right": 10 * CHARGE}
    with pytest.raises(BudgetError) as error:
        second.fork("b", "d")
    assert error.value.code == "learner_quota_exceeded"
    # What is deleted, evicted and dropped is free again, for whom a fork and what is brought back count.
    first.buffer("c").delete(range(1, 9))
    second.fork("b", "d")
    assert expect_counted(second) == {"left": 22 * CHARGE, "right": 20 * CHARGE}
    first.buffer("b").configure(lambda config: replace(config, budget=Budget(budget_bytes=15 * CHARGE)))
    assert expect_counted(second)["left"] == 17 * CHARGE
    exported = tmp_path / "b.zip"
    exported.write_bytes(b"".join(first.buffer("d").export()))
    second.import_buffer("e", exported)
    refused(first.buffer("c"), of("left", 5), requested_bytes=CHARGE, free_bytes=0)
    assert expect_counted(first)["left"] == 27 * CHARGE
    for store, name in zip(pair, "de", strict=True):
        store.delete_buffer(name)
    assert expect_counted(first) == {"left": 7 * CHARGE, "right": 10 * CHARGE}
    assert first._places.index is not None
    places = Places(first._places.index, first._places.segments)
    assert verify(tmp_path / "one", places).sound
    with first._index.writing() as transaction:
        transaction.connection.execute(sa.update(tables.learner_bytes).values(num_bytes=8 * CHARGE))
    said = [(problem.kind, problem.where, problem.words) for problem in verify(tmp_path / "one", places).problems]
    assert [(kind, where) for kind, where, _ in said] == [("wrong_counter", "learner_bytes")] * 2
    assert f"{8 * CHARGE} bytes of learner 'left' are counted, its records make {7 * CHARGE}" in said[0][2]


def test_who_was_slower_is_told_what_is_left(
    open_pair: Callable[[Options], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others took between the look and the commit was taken: the database refuses it, and the push looks again."""
    first, second = open_pair(Options(learner_bytes=ALL * CHARGE))
    for name in "bc":
        first.create_buffer(name, budget_bytes=100 * CHARGE)
    look, looks = quotas.learner_bytes, []

    def late(reading: Reading, learner_ids: Iterable[str]) -> dict[str, int]:
        found = look(reading, learner_ids)
        looks.append(found)
        if len(looks) == 1:
            second.buffer("c").push(of("left", 1, 20))
        return found

    monkeypatch.setattr(quotas, "learner_bytes", late)
    with pytest.raises(BudgetError) as error:
        first.buffer("b").push(of("left", 2, 5))
    assert error.value.details == {"requested_bytes": 5 * CHARGE, "free_bytes": 4 * CHARGE, "limit": ALL * CHARGE}
    assert [found.get("left", 0) for found in looks] == [0, 0, 20 * CHARGE]
    # Nothing of it is left, and the next one is taken.
    assert first.buffer("b").state.columns.num_records == 0
    first.buffer("b").push(of("left", 3, 4))
    assert expect_counted(second) == {"left": ALL * CHARGE}


def test_all_replicas_count_or_none(tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes after a service that did not counts anew."""
    monkeypatch.setattr(taking_part, "_LOCK_SECONDS", 0.0)
    segments, limited = f"memory://{uuid4().hex}", Options(learner_bytes=ALL * CHARGE)
    index = postgres.new_schema()
    shared, alone = Places(index, segments, replicas=True), Places(index, segments)

    def opened(options: Options, name: str = "one") -> SharedStore:
        return SharedStore(tmp_path / name, options, open_ports=shared)

    with opened(limited) as store:
        store.create_buffer("b", budget_bytes=100 * CHARGE)[0].push(of("left", 1, 5))
        with pytest.raises(StorageError, match=r"is with learner_bytes .* all have it, or none") as error:
            opened(Options(), "two")
        assert error.value.code == "store_locked"
    with opened(Options()) as store:
        store.buffer("b").push(of("left", 2, 5))
        with pytest.raises(StorageError, match="is without learner_bytes"):
            opened(limited, "two")
    with opened(limited) as store:
        assert expect_counted(store) == {"left": 10 * CHARGE}
    with Store(tmp_path / "three", open_ports=alone) as service:
        service.buffer("b").push(of("left", 3, 5))
    with opened(limited) as store, opened(limited, "two") as other:
        store.buffer("b").push(of("left", 4, 5))
        assert expect_counted(other) == {"left": 20 * CHARGE}
        with other._index.writing() as transaction:
            transaction.connection.execute(sa.update(tables.learner_bytes).values(num_bytes=1))
    assert not verify(tmp_path / "one", alone).sound
    # Any start counts anew, beside others that go on.
    with opened(limited) as store:
        assert expect_counted(store) == {"left": 20 * CHARGE}
        with store._index.writing() as transaction:
            transaction.connection.execute(sa.update(tables.learner_bytes).values(num_bytes=22 * CHARGE))
        pushing = threading.Thread(target=at_once, args=(2, lambda number: push_and_delete(store, number)))
        pushing.start()
        with opened(limited, "two") as other:
            pushing.join()
            assert expect_counted(other) == {"left": 20 * CHARGE}
            with other._index.writing() as transaction:
                transaction.connection.execute(sa.update(tables.learner_bytes).values(num_bytes=1))
    with Store(tmp_path / "three", limited, open_ports=alone) as service:
        refused(service.buffer("b"), of("left", 5, 5), requested_bytes=5 * CHARGE, free_bytes=4 * CHARGE)
        assert expect_counted(service) == {"left": 20 * CHARGE}
    assert verify(tmp_path / "one", alone).sound
    bucket.forget_memory(segments)


def test_pushes_through_two_processes_fill_a_quota_and_never_exceed_it(
    replicas: Replicas, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of the two is killed amid them."""
    replicas.environment["MEMORY_SERVICE_LEARNER_BYTES"] = str(ALL * CHARGE)
    services = [replicas.start(name) for name in ("one", "two")]
    names, numbers, codes = [f"b{number}" for number in range(4)], itertools.count(1), set()
    for name in names:
        made = httpx.put(f"{services[0].url}/v1/buffers/{name}", json={"budget_bytes": 100 * CHARGE})
        assert made.status_code == 201

    def fill(place: int, *, kill_at: int | None = None) -> None:
        """Push until there is no room, or the service is gone, and delete one on the way to that."""
        url = f"{services[place % 2].url}/v1/buffers/{names[place]}/exemplars"
        with suppress(httpx.TransportError):
            for turn in range(ALL + 1):
                answer = httpx.post(url, content=of("left", 100 * place + turn), headers=ARROW, timeout=60)
                if answer.status_code == 507:
                    codes.add(answer.json()["code"])
                    return
                (pushed,) = answer.raise_for_status().json()["exemplar_ids"]
                if kill_at is not None and turn == 1:
                    httpx.delete(f"{url}/{pushed}").raise_for_status()
                if next(numbers) == kill_at:
                    services[1].kill()

    def held() -> int:
        stats = [httpx.get(f"{services[0].url}/v1/buffers/{name}/stats").json() for name in names]
        return sum(each["learners"].get("left", 0) for each in stats)

    at_once(4, lambda place: fill(place, kill_at=10))
    assert held() <= ALL
    services[1] = replicas.start("two")
    at_once(4, fill)
    assert held() == ALL
    assert codes == {"learner_quota_exceeded"}
    for service in services:
        service.stop()
    use(object_store, monkeypatch)
    places = Places(replicas.index, replicas.environment["MEMORY_SERVICE_SEGMENTS"], replicas=True)
    with SharedStore(replicas.directory / "three", Options(learner_bytes=1), open_ports=places) as store:
        assert expect_counted(store) == {"left": ALL * CHARGE}
