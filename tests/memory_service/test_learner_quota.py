"""The most bytes of one learner, in all buffers together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from memory_format import BudgetError, Record, encode_batch
from memory_service.store import Store
from memory_service.store.pure.model import Options
from tests.memory_service.conftest import running
from tests.memory_service.helpers import ARROW, assert_problem, make_exemplar, push, put_buffer, stats_of

CHARGE = make_exemplar(learner_id="left").charge


def of(learner_id: str, number: int, class_id: int = 0, first: int = 0) -> list[Record]:
    return [make_exemplar(class_id, rank, seed=rank, learner_id=learner_id) for rank in range(first, first + number)]


@pytest.fixture
def client(data: Path) -> Iterator[httpx.Client]:
    """Six records a learner."""
    with running(data, learner_bytes=6 * CHARGE) as client:
        yield client


def pushed(client: httpx.Client, records: list[Record], *, buffer: str = "b", query: str = "") -> httpx.Response:
    return client.post(f"/v1/buffers/{buffer}/exemplars{query}", content=encode_batch(records), headers=ARROW)


def test_a_learner_has_so_many_bytes_in_all_buffers(client: httpx.Client) -> None:
    for name in "bc":
        put_buffer(client, 100 * CHARGE, buffer=name)
    push(client, of("left", 4))
    for query in ("?dry_run=true", ""):
        refused = pushed(client, of("left", 3), buffer="c", query=query)
        sizes = {"requested_bytes": 3 * CHARGE, "free_bytes": 2 * CHARGE, "limit": 6 * CHARGE}
        assert_problem(refused, "learner_quota_exceeded", **sizes)
        assert "'left'" in refused.json()["detail"]
    assert stats_of(client, buffer="c")["num_records"] == 0
    # A batch of several is refused for one of them, and another learner has bytes of its own.
    assert pushed(client, [*of("right", 1), *of("left", 3)], buffer="c").status_code == 507
    push(client, [*of("right", 6), *of("left", 2)], buffer="c")
    assert pushed(client, of("left", 1)).status_code == 507
    # What is deleted is free again.
    client.delete("/v1/buffers/c/exemplars?learner_id=left")
    push(client, of("left", 2, first=4))
    client.delete("/v1/buffers/b")
    push(client, of("left", 6), buffer="c")
    assert stats_of(client, buffer="c")["learners"] == {"left": 6, "right": 6}


def test_what_evictions_make_up_for_is_taken(client: httpx.Client) -> None:
    put_buffer(client, 6 * CHARGE, eviction="fifo")
    for first in range(0, 12, 4):
        push(client, of("left", 4, first=first))
    assert stats_of(client)["learners"] == {"left": 6}


def test_a_fork_counts_and_an_import_does_later(client: httpx.Client) -> None:
    put_buffer(client, 100 * CHARGE)
    push(client, of("left", 4))
    assert_problem(client.post("/v1/buffers/b/forks", json={"name": "c"}), "learner_quota_exceeded")
    assert client.get("/v1/buffers/c").status_code == 404
    copy = client.get("/v1/buffers/b/export").content
    made = client.post("/v1/buffers/c/import", content=copy, headers={"Content-Type": "application/zip"})
    assert made.status_code == 201
    assert pushed(client, of("left", 1, first=9)).status_code == 507


def test_a_lower_limit_leaves_what_is_there(data: Path) -> None:
    with running(data) as client:
        put_buffer(client, 100 * CHARGE, eviction="fifo")
        push(client, of("left", 10))
    with running(data, learner_bytes=6 * CHARGE) as client:
        assert pushed(client, of("left", 1)).status_code == 507
        assert client.patch("/v1/buffers/b", json={"budget_bytes": 10 * CHARGE}).status_code == 200
        # Its own records go for those that come.
        push(client, of("left", 2, first=20))
        assert stats_of(client)["learners"] == {"left": 10}


def test_pushes_to_several_buffers_at_once_do_not_exceed_it_together(data: Path) -> None:
    with Store(data, Options(learner_bytes=6 * CHARGE)) as store:
        buffers = [store.create_buffer(f"b{number}", budget_bytes=100 * CHARGE)[0] for number in range(8)]
        together, refused = threading.Barrier(len(buffers)), []

        def fill(number: int) -> None:
            together.wait()
            for rank in range(3):
                try:
                    buffers[number].push(encode_batch(of("left", 1, first=10 * number + rank)))
                except BudgetError as error:
                    refused.append(error.code)

        threads = [threading.Thread(target=fill, args=(number,)) for number in range(len(buffers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = sum(buffer.state.columns.num_records for buffer in buffers)
    assert held == 6
    assert refused == ["learner_quota_exceeded"] * 18
