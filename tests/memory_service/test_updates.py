"""New scores and ranks, and deletions."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.memory_service.conftest import running
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

URL = "/v1/buffers/b/exemplars"
CHARGE = make_exemplar().charge


def fill(client: httpx.Client, **settings: Any) -> None:
    """Ids 1..6 of class 0, 7..12 of class 1; ranks 0..5 of each."""
    put_buffer(client, **settings)
    push(client, [make_exemplar(c, rank, phase=c, learner_id=f"l{rank % 2}") for c in range(2) for rank in range(6)])


def update(client: httpx.Client, ids: list[int], **wanted: Any) -> dict[str, Any]:
    response = client.patch(URL, json={"exemplar_ids": ids, **wanted})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    # Of arrays alone: tests/memory_service/test_replacing.py.
    assert (answer.pop("revisions"), answer.pop("evicted")) == ({}, [])
    return answer


def listed(client: httpx.Client) -> dict[int, tuple[float, int]]:
    return {
        r["exemplar_id"]: (r["score"], r["rank"]) for r in client.get(URL, params={"limit": 1000}).json()["exemplars"]
    }


# Scores and ranks


def test_a_score_of_minus_zero_is_zero_before_and_after_a_restart(data: Path) -> None:
    """SQLite would make it of it (findings/sqlite_minus_zero.sh), and PostgreSQL not."""
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(score=-0.0), make_exemplar(score=1.0)])
        update(client, [2], scores=[-0.0])
        found = [str(score) for score, _ in listed(client).values()]
    with running(data) as client:
        found += [str(score) for score, _ in listed(client).values()]
    assert found == ["0.0"] * 4


def test_scores_and_ranks_change_and_nothing_else_does(data: Path) -> None:
    with running(data) as client:
        fill(client)
        before, bodies = listed(client), contents(all_records(client))
        assert update(client, [9, 2], scores=[0.25, -7.5]) == {"updated": 2, "missing": [], "version": 2}
        assert update(client, [2, 3], ranks=[40, 2**32 - 1])["version"] == 3
        assert update(client, [3], scores=[0.1], ranks=[7])["version"] == 4
        expected = {**before, 9: (0.25, before[9][1]), 2: (-7.5, 40), 3: (float(np.float32(0.1)), 7)}
        assert listed(client) == expected
        assert contents(all_records(client)) == bodies
        assert client.get(f"{URL}/2").json()["score"] == -7.5
        assert {r.exemplar_id: (r.score, r.rank) for r in all_records(client)} == expected
        assert [r.rank for r in sample(client, batch_size=12, replace=False) if r.exemplar_id == 3] == [7]
        ids = [r["exemplar_id"] for r in client.get(URL, params={"sort": "score"}).json()["exemplars"]]
        assert ids == sorted(expected, key=lambda id_: (expected[id_][0], id_))
        assert_consistent(client, data)
    with running(data) as client:
        assert listed(client) == expected
        assert stats_of(client)["version"] == 4


def test_an_update_that_changes_nothing_is_no_new_version(client: httpx.Client, data: Path) -> None:
    fill(client)
    score, rank = listed(client)[4]
    before = whole_state(data)
    assert update(client, [4], scores=[score], ranks=[rank]) == {"updated": 1, "missing": [], "version": 1}
    assert update(client, [99], ranks=[1]) == {"updated": 0, "missing": [99], "version": 1}
    assert whole_state(data) == before


def test_missing_ids_are_passed_over_and_named(client: httpx.Client) -> None:
    fill(client)
    client.delete(f"{URL}/5")
    answer = update(client, [2**63 - 1, 1, 5, 2, 13], scores=[1, 2, 3, 4, 5])
    assert answer == {"updated": 2, "missing": [2**63 - 1, 5, 13], "version": 3}
    assert (listed(client)[1][0], listed(client)[2][0]) == (2.0, 4.0)


def test_if_version_refuses_what_is_based_on_an_older_state(client: httpx.Client, data: Path) -> None:
    fill(client)
    assert update(client, [1], scores=[5], if_version=1)["version"] == 2
    before = whole_state(data)
    response = client.patch(URL, json={"exemplar_ids": [1], "scores": [6], "if_version": 1})
    assert_problem(response, "stale_version", version=2, expected_version=1)
    assert whole_state(data) == before
    # Of threads that read the same version, one comes through.
    statuses: list[int] = []

    def try_it(score: int) -> None:
        body = {"exemplar_ids": [1], "scores": [score], "if_version": 2}
        statuses.append(client.patch(URL, json=body).status_code)

    threads = [threading.Thread(target=try_it, args=(score,)) for score in range(10, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [409] * 5
    assert stats_of(client)["version"] == 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"exemplar_ids": [1]},
        {"exemplar_ids": []},
        {"exemplar_ids": [], "scores": []},
        {"exemplar_ids": [1, 2], "scores": [1]},
        {"exemplar_ids": [1], "scores": [1, 2]},
        {"exemplar_ids": [1], "scores": [1], "ranks": []},
        {"exemplar_ids": [1, 2, 1], "scores": [1, 2, 3]},
        {"exemplar_ids": [0], "scores": [1]},
        {"exemplar_ids": [-1], "scores": [1]},
        {"exemplar_ids": [2**63], "scores": [1]},
        {"exemplar_ids": [1.5], "scores": [1]},
        {"exemplar_ids": ["x"], "scores": [1]},
        {"exemplar_ids": [1], "scores": [float("nan")]},
        {"exemplar_ids": [1], "scores": [float("inf")]},
        {"exemplar_ids": [1], "scores": [1e39]},
        {"exemplar_ids": [1], "scores": [None]},
        {"exemplar_ids": [1], "ranks": [-1]},
        {"exemplar_ids": [1], "ranks": [2**32]},
        {"exemplar_ids": [1], "ranks": [1], "if_version": -1},
        {"exemplar_ids": [1], "ranks": [1], "version": 1},
    ],
    ids=str,
)
def test_updates_that_will_not_do(client: httpx.Client, data: Path, body: dict[str, Any]) -> None:
    fill(client)
    before = whole_state(data)
    content, headers = json.dumps(body), {"Content-Type": "application/json"}
    # NaN and Infinity are no JSON at all.
    status = 400 if "NaN" in content or "Infinity" in content else 422
    assert_problem(client.patch(URL, content=content, headers=headers), "invalid_request", status=status)
    assert whole_state(data) == before


def test_many_at_once(data: Path) -> None:
    with running(data) as client:
        put_buffer(client, 2 * 10**6)
        push(client, [make_exemplar(rank=rank, kept=1, num_tokens=0) for rank in range(3000)])
        ids, scores = list(range(1, 3001)), [round(0.001 * number, 3) for number in range(3000)]
        assert update(client, ids, scores=scores, ranks=ids) == {"updated": 3000, "missing": [], "version": 2}
        assert update(client, ids[::-1], scores=scores)["version"] == 3
        top = client.get(URL, params={"sort": "-score", "limit": 2}).json()["exemplars"]
        assert [row["exemplar_id"] for row in top] == [1, 2]
        assert_consistent(client, data)
        answer = client.patch(URL, json={"exemplar_ids": list(range(1, 100_002)), "ranks": [1] * 100_001})
        assert_problem(answer, "invalid_request")
        # As many as are taken at once fit a request.
        many = {"exemplar_ids": list(range(10**6, 11 * 10**5)), "scores": [1 / 3] * 100_000}
        assert len(client.patch(URL, json=many).json()["missing"]) == 100_000


def test_what_is_evicted_follows_the_new_scores(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 4 * CHARGE, eviction="lowest_score")
    push(client, [make_exemplar(rank=rank, score=rank) for rank in range(4)])
    update(client, [1, 4], scores=[10, -1])
    assert push(client, [make_exemplar(rank=9, score=5)])["evicted"] == [4]
    assert set(listed(client)) == {1, 2, 3, 5}
    assert_consistent(client, data)


def test_scores_of_what_is_gone_are_forgotten(client: httpx.Client, data: Path) -> None:
    fill(client)
    update(client, list(range(1, 13)), scores=[1] * 12)
    assert len(whole_state(data)["scores"]) == 12
    update(client, [1], scores=[2])
    # Nobody can ask for the older ones: there is no snapshot.
    assert len(whole_state(data)["scores"]) == 12
    client.delete(URL, params={"class_id": 1})
    assert len(whole_state(data)["scores"]) == 6
    assert_consistent(client, data)


# Deletions


def test_delete_one(data: Path) -> None:
    with running(data) as client:
        fill(client)
        response = client.delete(f"{URL}/3")
        assert response.json() == {"deleted": [3], "bytes_used": 11 * CHARGE, "version": 2, "receipt": None}
        assert_problem(client.get(f"{URL}/3"), "unknown_exemplar")
        before = whole_state(data)
        for gone in (3, 13, 2**63 - 1):
            assert_problem(client.delete(f"{URL}/{gone}"), "unknown_exemplar")
        for bad in ("0", "-1", "x", str(2**63)):
            assert_problem(client.delete(f"{URL}/{bad}"), "invalid_request")
        assert whole_state(data) == before
        assert_consistent(client, data)
    with running(data) as client:
        assert [record.exemplar_id for record in all_records(client)] == [1, 2, *range(4, 13)]
        # Its id is not given again.
        assert push(client, [make_exemplar()])["exemplar_ids"] == [13]
        assert_consistent(client, data)


@pytest.mark.parametrize(
    ("params", "deleted"),
    [
        ({"class_id": 1}, list(range(7, 13))),
        ({"class_id": [0, 1], "learner_id": "l1"}, [2, 4, 6, 8, 10, 12]),
        ({"phase": 0, "learner_id": "l0"}, [1, 3, 5]),
        ({"class_id": 9}, []),
        ({"class_id": 0, "phase": 1}, []),
        ({"learner_id": "nobody"}, []),
    ],
    ids=str,
)
def test_delete_what_matches(client: httpx.Client, data: Path, params: dict[str, Any], deleted: list[int]) -> None:
    fill(client)
    # What is deleted is what a query shows. PyIceberg 0.12.0 differs there (findings/pyiceberg_delete_other_rows.sh).
    assert [row["exemplar_id"] for row in client.get(URL, params=params).json()["exemplars"]] == deleted
    answer = client.delete(URL, params=params).json()
    kept = 12 - len(deleted)
    assert answer == {"deleted": deleted, "bytes_used": kept * CHARGE, "version": 1 + bool(deleted), "receipt": None}
    assert assert_consistent(client, data)["num_records"] == kept


def test_delete_without_a_filter_is_refused(client: httpx.Client, data: Path) -> None:
    fill(client)
    before = whole_state(data)
    assert_problem(client.delete(URL), "invalid_query")
    for bad in ({"class": 1}, {"min_score": 0}, {"class_id": -1}, {"class_id": "x"}, {"limit": 5}, {"snapshot": "a"}):
        assert_problem(client.delete(URL, params=bad), "invalid_request")
    assert whole_state(data) == before


def test_deleting_everything_leaves_no_file(client: httpx.Client, data: Path) -> None:
    fill(client)
    client.delete(URL, params={"class_id": [0, 1]})
    assert not any((data / "segments").iterdir())
    assert assert_consistent(client, data)["disk_bytes"] < 2000
    assert push(client, [make_exemplar()])["exemplar_ids"] == [13]
    assert_consistent(client, data)
