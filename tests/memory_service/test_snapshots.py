"""Snapshots: names for what a buffer held, what differs between them, and what they cost."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import MEDIA_TYPE, Record, decode_batch
from tests.memory_service.conftest import crashing, running
from tests.memory_service.helpers import (
    all_records,
    assert_consistent,
    assert_problem,
    contents,
    make_exemplar,
    push,
    put_buffer,
    sample,
    stats_of,
    whole_state,
)

URL = "/v1/buffers/b"
CHARGE = make_exemplar(seed=1).charge


def exemplar(class_id: int = 0, rank: int = 0, **fields: Any) -> Record:
    """All of one size."""
    return make_exemplar(class_id, rank, **{"seed": 1, **fields})


def take(client: httpx.Client, name: str) -> dict[str, Any]:
    response = client.put(f"{URL}/snapshots/{name}")
    assert response.status_code == 201, response.text
    taken: dict[str, Any] = response.json()
    return taken


def names(client: httpx.Client) -> list[str]:
    return [snapshot["name"] for snapshot in client.get(f"{URL}/snapshots").json()["snapshots"]]


def test_a_long_list_comes_in_pages(client: httpx.Client) -> None:
    put_buffer(client)
    given = [f"s{(8 * number) % 105}" for number in range(105)]
    for name in given:
        take(client, name)
    page = client.get(f"{URL}/snapshots").json()
    assert [snapshot["name"] for snapshot in page["snapshots"]] == given[:100]
    # Also when the last one given is gone.
    client.delete(f"{URL}/snapshots/{given[99]}")
    rest = client.get(f"{URL}/snapshots", params={"cursor": page["next_cursor"]}).json()
    assert [snapshot["name"] for snapshot in rest["snapshots"]] == given[100:]
    assert rest["next_cursor"] is None
    for cursor in ("", "-1", "x", "1.0", "9" * 20, "\u0661"):
        assert_problem(client.get(f"{URL}/snapshots", params={"cursor": cursor}), "invalid_cursor")


def fifo(client: httpx.Client, records: int = 6, **settings: Any) -> None:
    put_buffer(client, records * CHARGE, eviction="fifo", **settings)


def test_take_list_get_delete(data: Path) -> None:
    with running(data) as client:
        fifo(client)
        assert client.get(f"{URL}/snapshots").json() == {"snapshots": [], "next_cursor": None}
        push(client, [exemplar(rank=rank) for rank in range(3)])
        taken = take(client, "z")
        assert abs(taken.pop("created_at") - time.time()) < 60
        assert taken == {"name": "z", "version": 1, "num_records": 3, "bytes_used": 3 * CHARGE, "erased": 0}
        state = whole_state(data)
        # The same again is as good.
        response = client.put(f"{URL}/snapshots/z")
        assert response.status_code == 200
        assert {**response.json(), "created_at": 0} == {**taken, "created_at": 0}
        assert whole_state(data) == state
        # A second name for the same state.
        take(client, "a")
        push(client, [exemplar(1)])
        response = client.put(f"{URL}/snapshots/z")
        assert_problem(response, "snapshot_exists", version=1)
        take(client, "m")
        assert names(client) == ["z", "a", "m"]
        assert client.get(f"{URL}/snapshots/a").json()["version"] == 1
        assert client.get(f"{URL}/snapshots/m").json()["version"] == 2
        assert assert_consistent(client, data)["snapshots"] == 3
    with running(data) as client:
        assert names(client) == ["z", "a", "m"]
        assert client.put(f"{URL}/snapshots/m").status_code == 200
        response = client.delete(f"{URL}/snapshots/a")
        assert (response.status_code, response.content) == (204, b"")
        assert_problem(client.delete(f"{URL}/snapshots/a"), "unknown_snapshot")
        assert_problem(client.get(f"{URL}/snapshots/a"), "unknown_snapshot")
        assert names(client) == ["z", "m"]
        # Its name is free again, and it is the newest now.
        take(client, "a")
        assert names(client) == ["z", "m", "a"]
        assert_consistent(client, data)


@pytest.mark.parametrize("name", ["C", "-c", ".c", "c d", "c" * 64, "\u00e7", "c%00", "#lease"])
def test_names_that_will_not_do(client: httpx.Client, data: Path, name: str) -> None:
    put_buffer(client)
    before = whole_state(data)
    url = f"{URL}/snapshots/{name.replace('#', '%23')}"
    assert_problem(client.put(url), "invalid_request")
    assert_problem(client.get(url), "unknown_snapshot")
    assert_problem(client.delete(url), "unknown_snapshot")
    assert whole_state(data) == before


def test_a_snapshot_taken_twice_at_the_same_moment(client: httpx.Client, data: Path) -> None:
    fifo(client)
    push(client, [exemplar()])
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(client.put(f"{URL}/snapshots/a").status_code)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 5 + [201]
    assert assert_consistent(client, data)["snapshots"] == 1


class Seen:
    """What every route shows of a buffer, now or at a snapshot."""

    def __init__(self, client: httpx.Client, snapshot: str | None) -> None:
        params = {} if snapshot is None else {"snapshot": snapshot}
        body: dict[str, Any] = dict(params)
        self.rows = client.get(f"{URL}/exemplars", params={**params, "limit": 1000}).json()
        self.by_score = client.get(f"{URL}/exemplars", params={**params, "sort": "-score"}).json()
        arrow = client.get(f"{URL}/exemplars", params=params, headers={"Accept": MEDIA_TYPE})
        self.records = [
            (record.exemplar_id, record.score, record.rank, record.body) for record in decode_batch(arrow.content)
        ]
        ids = [row["exemplar_id"] for row in self.rows["exemplars"]]
        self.details = [client.get(f"{URL}/exemplars/{id_}", params=params).json() for id_ in ids]
        self.image = client.get(f"{URL}/exemplars/{ids[0]}/image.png", params=params).content
        self.samples = [
            contents(sample(client, batch_size=8, seed=seed, strategy=strategy, repair_text=0.5, **body))
            for seed in range(3)
            for strategy in ("uniform", "class_balanced", "score_weighted")
        ]


def test_a_snapshot_shows_for_ever_what_there_was(data: Path) -> None:
    with running(data) as client:
        fifo(client)
        push(client, [exemplar(rank % 2, rank, seed=rank, score=1.0 + rank) for rank in range(5)])
        client.patch(f"{URL}/exemplars", json={"exemplar_ids": [2], "scores": [0.5], "ranks": [77]})
        before = vars(Seen(client, None))
        taken = take(client, "s")
        assert vars(Seen(client, "s")) == before
        # Scores and ranks change, records are deleted, evicted and added.
        client.patch(f"{URL}/exemplars", json={"exemplar_ids": [1, 2, 3], "scores": [8, 9, 10], "ranks": [3, 2, 1]})
        client.delete(f"{URL}/exemplars/4")
        push(client, [exemplar(3, rank, seed=50 + rank) for rank in range(5)])
        assert vars(Seen(client, "s")) == before
        now = vars(Seen(client, None))
        assert now != before
        assert_problem(client.get(f"{URL}/exemplars/4"), "unknown_exemplar")
        assert_problem(client.get(f"{URL}/exemplars/9", params={"snapshot": "s"}), "unknown_exemplar")
        response = client.post(f"{URL}/sample", json={"batch_size": 1, "snapshot": "s"})
        assert response.headers["Exemplar-Memory-Version"] == str(taken["version"])
        assert_consistent(client, data)
    with crashing(data) as client:
        assert vars(Seen(client, "s")) == before
        assert vars(Seen(client, None)) == now
        push(client, [exemplar(4, rank) for rank in range(20)])
        assert vars(Seen(client, "s")) == before
    with running(data) as client:
        assert vars(Seen(client, "s")) == before
        assert_consistent(client, data)
        client.delete(f"{URL}/snapshots/s")
        assert_problem(client.get(f"{URL}/exemplars", params={"snapshot": "s"}), "unknown_snapshot")
        assert whole_state(data)["scores"] == []
        assert_consistent(client, data)


def test_a_snapshot_survives_the_rewriting_of_its_segments(data: Path) -> None:
    with running(data) as client:
        large = [exemplar(rank % 3, rank, pad=2000) for rank in range(40)]
        put_buffer(client, 42 * large[0].charge, eviction="lowest_score", disk_limit_bytes=180 * large[0].charge)
        push(client, large)
        take(client, "s")
        shown = vars(Seen(client, "s"))
        for round_ in range(60):
            push(client, [exemplar(5, round_, seed=i, score=2.0 + round_, pad=2000) for i in range(5)])
            assert stats_of(client)["disk_bytes"] <= 180 * large[0].charge
        stats = assert_consistent(client, data)
        assert stats["pinned_bytes"] == 40 * large[0].charge
        assert vars(Seen(client, "s")) == shown
    with running(data) as client:
        assert vars(Seen(client, "s")) == shown


def test_pages_of_a_snapshot(client: httpx.Client) -> None:
    fifo(client)
    push(client, [exemplar(rank=rank) for rank in range(6)])
    take(client, "s")
    push(client, [exemplar(1, rank) for rank in range(3)])
    params: dict[str, Any] = {"snapshot": "s", "limit": 2}
    found: list[int] = []
    while True:
        page = client.get(f"{URL}/exemplars", params=params).json()
        assert page["version"] == 1
        found += [row["exemplar_id"] for row in page["exemplars"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == [1, 2, 3, 4, 5, 6]
    assert [record.exemplar_id for record in all_records(client, snapshot="s", class_id=1)] == []


def test_samples_of_a_snapshot_are_those_of_its_version(client: httpx.Client) -> None:
    fifo(client)
    push(client, [exemplar(rank % 2, rank, score=0.1 + rank) for rank in range(6)])
    wanted: dict[str, Any] = {"batch_size": 16, "seed": 3, "step": 8, "class_id": [0, 1], "repair_text": 0.5}
    strategies = ("uniform", "class_balanced", "score_weighted")
    live = [contents(sample(client, **wanted, strategy=strategy, version=1)) for strategy in strategies]
    take(client, "s")
    push(client, [exemplar(7, rank) for rank in range(4)])
    for strategy, batch in zip(strategies, live, strict=True):
        assert contents(sample(client, **wanted, strategy=strategy, snapshot="s")) == batch
        assert contents(sample(client, **wanted, strategy=strategy, snapshot="s", version=1)) == batch
    response = client.post(f"{URL}/sample", json={**wanted, "version": 1})
    assert_problem(response, "stale_version", version=2, expected_version=1)
    response = client.post(f"{URL}/sample", json={**wanted, "snapshot": "s", "version": 2})
    assert_problem(response, "stale_version", version=1, expected_version=2)


def test_unknown_snapshots_everywhere(client: httpx.Client, data: Path) -> None:
    fifo(client)
    push(client, [exemplar()])
    take(client, "s")
    before = whole_state(data)
    for url in ("/exemplars", "/exemplars/1", "/exemplars/1/image.png"):
        assert_problem(client.get(URL + url, params={"snapshot": "x"}), "unknown_snapshot")
    assert_problem(client.post(f"{URL}/sample", json={"batch_size": 1, "snapshot": "x"}), "unknown_snapshot")
    assert_problem(client.get(f"{URL}/diff", params={"from": "x"}), "unknown_snapshot")
    assert_problem(client.get(f"{URL}/diff", params={"from": "s", "to": "x"}), "unknown_snapshot")
    assert_problem(client.get(f"{URL}/diff"), "invalid_request")
    assert_problem(client.post(f"{URL}/forks", json={"name": "c", "snapshot": "x"}), "unknown_snapshot")
    assert whole_state(data) == before


def test_an_empty_snapshot(client: httpx.Client, data: Path) -> None:
    fifo(client)
    taken = take(client, "empty")
    assert (taken["version"], taken["num_records"]) == (0, 0)
    push(client, [exemplar()])
    assert all_records(client, snapshot="empty") == []
    response = client.post(f"{URL}/sample", json={"batch_size": 1, "snapshot": "empty"})
    assert_problem(response, "no_matching_exemplars")
    assert client.get(f"{URL}/diff", params={"from": "empty"}).json()["added"]["exemplar_ids"] == [1]
    assert_consistent(client, data)


# What they cost


def test_deleting_a_snapshot_frees_the_disk(data: Path) -> None:
    charge = exemplar(pad=2000).charge
    with running(data) as client:
        put_buffer(client, 30 * charge, eviction="fifo", disk_limit_bytes=200 * charge)
        empty = stats_of(client)["disk_bytes"]
        for phase in range(4):
            push(client, [exemplar(phase, rank, pad=2000) for rank in range(30)])
            take(client, f"p{phase}")
        stats = assert_consistent(client, data)
        # The last one pins nothing: all it shows is live.
        assert stats["pinned_bytes"] == 90 * charge
        for phase, pinned in ((1, 60), (3, 60), (0, 30), (2, 0)):
            before = stats_of(client)["disk_bytes"]
            client.delete(f"{URL}/snapshots/p{phase}")
            stats = assert_consistent(client, data)
            assert stats["pinned_bytes"] == pinned * charge
            if phase != 3:
                assert stats["disk_bytes"] < before - 20 * charge
        assert stats["disk_bytes"] < 50 * charge
        client.delete(f"{URL}/exemplars", params={"class_id": [3]})
        assert not any((data / "segments").iterdir())
        assert stats_of(client)["disk_bytes"] < empty + 500
    with running(data) as client:
        assert_consistent(client, data)


def test_a_snapshot_between_two_others_holds_what_both_show(client: httpx.Client, data: Path) -> None:
    fifo(client, 4)
    push(client, [exemplar(rank=rank) for rank in range(4)])
    for name in ("a", "b", "c"):
        take(client, name)
    push(client, [exemplar(1, rank) for rank in range(4)])
    for name, pinned in (("b", 4), ("a", 4), ("c", 0)):
        client.delete(f"{URL}/snapshots/{name}")
        assert assert_consistent(client, data)["pinned_bytes"] == pinned * CHARGE


def test_retention_keeps_the_newest(data: Path) -> None:
    with running(data) as client:
        fifo(client, retain_snapshots=2)
        for phase in range(4):
            push(client, [exemplar(phase, rank) for rank in range(6)])
            take(client, f"p{phase}")
        assert names(client) == ["p2", "p3"]
        assert assert_consistent(client, data)["pinned_bytes"] == 6 * CHARGE
        # The one that is asked for again is not taken again.
        assert client.put(f"{URL}/snapshots/p3").status_code == 200
        assert names(client) == ["p2", "p3"]
        client.patch(URL, json={"retain_snapshots": 1})
        assert names(client) == ["p3"]
        assert assert_consistent(client, data)["pinned_bytes"] == 0
    with running(data) as client:
        take(client, "p4")
        assert names(client) == ["p4"]
        assert assert_consistent(client, data)["pinned_bytes"] == 0
        client.patch(URL, json={"retain_snapshots": None})
        for phase in range(5, 8):
            take(client, f"p{phase}")
        assert len(names(client)) == 4


# What differs


def test_diff_of_two_snapshots_and_of_one_and_now(client: httpx.Client, data: Path) -> None:
    fifo(client)
    push(client, [exemplar(rank % 2, rank) for rank in range(6)])
    take(client, "a")
    push(client, [exemplar(5, rank) for rank in range(2)])
    client.delete(f"{URL}/exemplars/3")
    take(client, "b")
    push(client, [exemplar(5, 9), exemplar(6, 9)])
    before = whole_state(data)
    empty = {"count": 0, "bytes": 0, "classes": [], "exemplar_ids": []}
    expected = {
        "from_version": 1,
        "to_version": 3,
        "added": {
            "count": 2,
            "bytes": 2 * CHARGE,
            "classes": [{"class_id": 5, "count": 2, "bytes": 2 * CHARGE, "name": None}],
            "exemplar_ids": [7, 8],
        },
        "evicted": {
            "count": 3,
            "bytes": 3 * CHARGE,
            "classes": [
                {"class_id": 0, "count": 2, "bytes": 2 * CHARGE, "name": None},
                {"class_id": 1, "count": 1, "bytes": CHARGE, "name": None},
            ],
            "exemplar_ids": [1, 2, 3],
        },
        "revised": empty,
    }
    assert client.get(f"{URL}/diff", params={"from": "a", "to": "b"}).json() == expected
    # The other way round, it is the other way round.
    backwards = client.get(f"{URL}/diff", params={"from": "b", "to": "a"}).json()
    assert (backwards["added"], backwards["evicted"]) == (expected["evicted"], expected["added"])
    assert (backwards["from_version"], backwards["to_version"]) == (3, 1)
    now = client.get(f"{URL}/diff", params={"from": "b"}).json()
    assert (now["from_version"], now["to_version"]) == (3, 4)
    assert (now["added"]["exemplar_ids"], now["evicted"]["exemplar_ids"]) == ([9, 10], [4])
    nothing = client.get(f"{URL}/diff", params={"from": "a", "to": "a"}).json()
    assert (nothing["added"], nothing["evicted"]) == (empty, empty)
    # New scores are no difference of what is held.
    client.patch(f"{URL}/exemplars", json={"exemplar_ids": [9], "scores": [5]})
    assert client.get(f"{URL}/diff", params={"from": "b"}).json() == {**now, "to_version": 5}
    assert whole_state(data)["snapshots"] == before["snapshots"]
