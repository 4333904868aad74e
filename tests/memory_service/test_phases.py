"""Who is in which phase: what the index says, over a restart, in both databases; and whose key may say it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from memory_format import BudgetError, FormatError, NotFoundError
from memory_service.store import Store
from memory_service.store.directory import Places
from memory_service.store.keys import KeyFile
from memory_service.testing import expect_loaded_state
from tests.memory_service.conftest import crashing, running
from tests.memory_service.helpers import assert_consistent, assert_problem, put_buffer
from tests.postgres import PostgresServer

URL = "/v1/buffers/b/phases"


def enter(client: httpx.Client, learner_id: str, phase: int, **more: bool) -> httpx.Response:
    return client.put(f"{URL}/{learner_id}", json={"phase": phase, **more})


def said(client: httpx.Client) -> dict[str, tuple[int, bool]]:
    page = client.get(URL).json()
    assert page["next_cursor"] is None
    return {learner["learner_id"]: (learner["phase"], learner["ended"]) for learner in page["learners"]}


def test_learners_say_in_which_phase_they_are(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    first = enter(client, "ann", 0)
    assert (first.status_code, first.json()["learner_id"], first.json()["phase"]) == (201, "ann", 0)
    assert enter(client, "ann", 0).json() == first.json()
    assert enter(client, "ben", 3).status_code == 201
    moved = enter(client, "ann", 2)
    assert moved.status_code == 200
    assert moved.json()["entered_at"] > first.json()["entered_at"]
    assert enter(client, "ben", 1, ended=True).status_code == 200
    assert said(client) == {"ann": (2, False), "ben": (1, True)}
    # It changes nothing of what is held, and what it takes is counted.
    assert client.get("/v1/buffers/b").json()["version"] == 0
    assert_consistent(client, data)
    for _ in range(2):
        assert client.delete(f"{URL}/ben").status_code == 204
    assert said(client) == {"ann": (2, False)}
    assert_consistent(client, data)


def test_pages_of_learners_follow_each_other(client: httpx.Client) -> None:
    put_buffer(client)
    for number in range(5):
        enter(client, f"l{number}", number)
    found, cursor = [], None
    for _ in range(3):
        page = client.get(URL, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [learner["phase"] for learner in page["learners"]]
        cursor = page["next_cursor"]
    assert (found, cursor) == ([0, 1, 2, 3, 4], None)
    assert_problem(client.get(URL, params={"cursor": "no such"}), "invalid_cursor")


def test_what_makes_no_sense_is_refused(client: httpx.Client) -> None:
    put_buffer(client)
    for body in ({"phase": -1}, {"phase": 65_536}, {"phase": 1.5}, {"phase": "1"}, {}, {"phase": 1, "ended": 1}):
        assert_problem(client.put(f"{URL}/ann", json=body), "invalid_request")
    assert_problem(enter(client, "a b", 0), "invalid_request")
    assert_problem(client.put("/v1/buffers/none/phases/ann", json={"phase": 0}), "unknown_buffer")
    assert_problem(client.get("/v1/buffers/none/phases"), "unknown_buffer")
    assert said(client) == {}


@pytest.mark.parametrize("ended_by", [running, crashing])
def test_a_restart_forgets_nothing(data: Path, ended_by: Callable[..., object]) -> None:
    with ended_by(data) as client:  # type: ignore[attr-defined]
        put_buffer(client)
        enter(client, "ann", 1)
        enter(client, "ann", 2)
        before = client.get(URL).json()
    with running(data) as client:
        assert client.get(URL).json() == before
        assert enter(client, "ann", 3).status_code == 200
        assert_consistent(client, data)


def test_a_buffer_takes_its_learners_with_it_and_a_fork_has_none(client: httpx.Client) -> None:
    put_buffer(client)
    enter(client, "ann", 1)
    assert client.post("/v1/buffers/b/forks", json={"name": "f"}).status_code == 201
    assert client.get("/v1/buffers/f/phases").json()["learners"] == []
    assert client.delete("/v1/buffers/b").status_code == 204
    put_buffer(client)
    assert said(client) == {}


def test_keys_hold(data: Path) -> None:
    keys = KeyFile(data)
    admin, reads, ann, elsewhere = (
        {"Authorization": f"Bearer {keys.make(role, 0.0, **more)[1]}"}  # type: ignore[arg-type]
        for role, more in (
            ("admin", {}),
            ("read", {}),
            ("write", {"learner_id": "ann"}),
            ("write", {"buffers": ["other"]}),
        )
    )
    with running(data) as client:
        client.headers.update(admin)
        put_buffer(client)
        body = {"phase": 1}
        assert client.put(f"{URL}/ben", json=body).status_code == 201
        assert client.put(f"{URL}/ann", json=body, headers=ann).status_code == 201
        for refused in (
            client.put(f"{URL}/ben", json=body, headers=ann),
            client.delete(f"{URL}/ben", headers=ann),
            client.put(f"{URL}/ann", json=body, headers=reads),
            client.delete(f"{URL}/ann", headers=reads),
            client.get(URL, headers=elsewhere),
        ):
            assert_problem(refused, "forbidden")
        assert len(client.get(URL, headers=reads).json()["learners"]) == 2
        assert client.delete(f"{URL}/ann", headers=ann).status_code == 204


@pytest.fixture(params=["sqlite", "postgresql"])
def open_store(request: pytest.FixtureRequest, data: Path) -> Callable[[], Store]:
    if request.param == "sqlite":
        return lambda: Store(data)
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_schema()
    return lambda: Store(data, open_ports=Places(index=url))


def test_learners_at_once_in_either_database(open_store: Callable[[], Store]) -> None:
    def learn(learner_id: str) -> list[bool]:
        return [buffer.phases.enter(learner_id, phase)[1] for phase in range(5)]

    with open_store() as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10_000)
        before = buffer.stats().index_bytes
        ids = ["ann", "ann", "ben", "cid"]
        with ThreadPoolExecutor(4) as pool:
            new = list(pool.map(learn, ids))
        # Each is new once, whoever was faster.
        assert sum(map(sum, new)) == 3
        assert [(at.learner_id, at.phase) for at in buffer.phases.page(9)[0]] == [("ann", 4), ("ben", 4), ("cid", 4)]
        buffer.phases.leave("ben")
        expect_loaded_state(buffer)
        assert buffer.stats().index_bytes - before == 2 * 192
    with open_store() as store:
        buffer = store.buffer("b")
        expect_loaded_state(buffer)
        assert [at.learner_id for at in buffer.phases.page(9)[0]] == ["ann", "cid"]
        with pytest.raises(FormatError, match="cursor"):
            buffer.phases.page(9, "no such")
        store.delete_buffer("b")
        with pytest.raises(NotFoundError):
            buffer.phases.enter("ann", 5)


def test_learners_that_the_disk_has_no_room_for_are_refused(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=1000, disk_limit_bytes=5000)
        with pytest.raises(BudgetError, match="more bytes on disk are needed"):
            deque(buffer.phases.enter(f"{number:064}", 0) for number in range(100))
        held = buffer.phases.page(1000)[0]
        assert 0 < len(held) < 100
        # Those that are known go on.
        assert buffer.phases.enter(held[0].learner_id, 1)[1] is False
        expect_loaded_state(buffer)
