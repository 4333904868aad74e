"""The two hard figures over HTTP: the budget in bytes or full samples, the disk limit, and what gives way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from memory_format import Record, encode_batch
from memory_format.api.terms import EVICTION_POLICIES
from memory_service.store.pure.eviction import reservoir_keys
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    ARROW,
    all_records,
    assert_consistent,
    assert_problem,
    make_exemplar,
    push,
    put_buffer,
    stats_of,
    whole_state,
)

URL = "/v1/buffers/b/exemplars"
# Of one seed, so that all are of one size.
CHARGE = make_exemplar(seed=1).charge
LARGE = make_exemplar(seed=1, pad=2000).charge
SCORES = (0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4)
OFFERED = [make_exemplar(number % 2, number, seed=1, score=score) for number, score in enumerate(SCORES)]


def patch(client: httpx.Client, **change: Any) -> dict[str, Any]:
    response = client.patch("/v1/buffers/b", json=change)
    assert response.status_code == 200, response.text
    info: dict[str, Any] = response.json()
    assert info == {**client.get("/v1/buffers/b").json(), "evicted": info["evicted"]}
    return info


def held(client: httpx.Client) -> list[int]:
    return [record.exemplar_id for record in all_records(client)]


def kept_ranks(client: httpx.Client) -> list[int]:
    return [record.rank for record in all_records(client)]


def post(client: httpx.Client, records: list[Record], **headers: str) -> httpx.Response:
    return client.post(URL, content=encode_batch(records), headers={**ARROW, **headers})


def large(rank: int, class_id: int = 0) -> Record:
    return make_exemplar(class_id, rank, seed=1, pad=2000)


# In bytes or in full samples


def test_a_budget_in_full_samples_for_so_many_classes(data: Path) -> None:
    with running(data) as client:
        settings: dict[str, Any] = {"full_samples_per_class": 2, "full_sample_bytes": 1000, "num_classes": 3}
        info = put_buffer(client, None, **settings)
        assert info["budget_bytes"] == 6000
        assert {name: info[name] for name in settings} == settings
        assert client.put("/v1/buffers/b", json=settings).status_code == 200
        other = client.put("/v1/buffers/b", json={"budget_bytes": 6000})
        assert_problem(other, "buffer_exists", existing={"budget_bytes": settings})
        answer = push(client, [make_exemplar(c, rank) for c in range(5) for rank in range(10)])
        assert answer["budget_bytes"] == 6000
        assert answer["bytes_used"] <= 6000
        assert_consistent(client, data)
    with running(data) as client:
        info = client.get("/v1/buffers/b").json()
        assert {name: info[name] for name in settings} == settings
        assert info["budget_bytes"] == stats_of(client)["budget_bytes"] == 6000


def test_a_budget_that_grows_with_the_classes_seen(data: Path) -> None:
    size = 2 * CHARGE
    with running(data) as client:
        settings: dict[str, Any] = {"full_samples_per_class": 2, "full_sample_bytes": size}
        assert put_buffer(client, None, **settings)["budget_bytes"] == 2 * size
        # One class's worth holds four records; the fifth is the worst.
        answer = push(client, [make_exemplar(7, rank) for rank in range(5)])
        assert (answer["exemplar_ids"], answer["budget_bytes"]) == ([1, 2, 3, 4, None], 2 * size)
        answer = push(client, [make_exemplar(8, rank) for rank in range(5)])
        assert (answer["kept"], answer["budget_bytes"], answer["evicted"]) == (4, 4 * size, [])
        # Also with a class of which nothing is kept any more, and never back.
        for class_id in (7, 8):
            client.delete(URL, params={"class_id": class_id})
        assert stats_of(client)["num_records"] == 0
        assert client.get("/v1/buffers/b").json()["budget_bytes"] == 4 * size
        assert push(client, [make_exemplar(9)])["budget_bytes"] == 6 * size
        stats = assert_consistent(client, data)
        assert (stats["num_classes"], stats["num_classes_seen"], stats["budget_bytes"]) == (1, 3, 6 * size)
        # The disk limit that follows from the budget grows with it.
        assert stats["disk_limit_bytes"] == max(9 * size, 6 * size + 2**18)
    with running(data) as client:
        assert client.get("/v1/buffers/b").json()["budget_bytes"] == 6 * size
        assert push(client, [make_exemplar(7)])["budget_bytes"] == 6 * size
        # What is not given of a budget in full samples stays.
        assert patch(client, num_classes=2)["budget_bytes"] == 4 * size
        assert push(client, [make_exemplar(5)])["budget_bytes"] == 4 * size
        assert patch(client, full_samples_per_class=3)["budget_bytes"] == 6 * size
        assert patch(client, num_classes=None)["budget_bytes"] == 12 * size
        # Another kind of budget is given whole.
        info = patch(client, budget_bytes=5000)
        assert (info["budget_bytes"], info["full_samples_per_class"], info["full_sample_bytes"]) == (5000, None, None)
        assert_problem(client.patch("/v1/buffers/b", json={"full_samples_per_class": 2}), "invalid_budget")
        assert patch(client, **settings)["budget_bytes"] == 8 * size


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"budget_bytes": None},
        {"full_samples_per_class": 2},
        {"full_sample_bytes": 2},
        {"num_classes": 2},
        {"full_samples_per_class": 0, "full_sample_bytes": 100},
        {"full_samples_per_class": 1, "full_sample_bytes": -1},
        {"full_samples_per_class": 1, "full_sample_bytes": 100, "num_classes": 0},
        {"full_samples_per_class": 2**30, "full_sample_bytes": 2**30},
        {"full_samples_per_class": 1, "full_sample_bytes": 2**49, "num_classes": 3},
        {"budget_bytes": 1000, "num_classes": 2},
        {"budget_bytes": 1000, "full_samples_per_class": 1, "full_sample_bytes": 1},
        {"budget_bytes": 1000, "disk_limit_bytes": 999},
        {"budget_bytes": 1000, "disk_limit_bytes": 0},
        {"budget_bytes": 1000, "disk_limit_bytes": 2**52},
    ],
)
def test_budgets_that_are_none(client: httpx.Client, data: Path, settings: dict[str, Any]) -> None:
    put_buffer(client)
    before = whole_state(data)
    assert_problem(client.put("/v1/buffers/c", json=settings), "invalid_budget")
    if settings:
        assert_problem(client.patch("/v1/buffers/b", json=settings), "invalid_budget")
    assert whole_state(data) == before


# Changed later


def test_a_larger_budget_changes_nothing_that_is_held(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 4 * CHARGE)
    push(client, OFFERED)
    before = held(client)
    info = patch(client, budget_bytes=8 * CHARGE)
    assert (info["evicted"], info["version"], info["budget_bytes"]) == ([], 1, 8 * CHARGE)
    assert held(client) == before
    assert push(client, OFFERED[:4])["kept"] == 4
    assert_consistent(client, data)


@pytest.mark.parametrize(
    ("policy", "evicted"),
    [("class_balanced", [5, 6, 7, 8]), ("lowest_score", [2, 4, 6, 8]), ("fifo", [1, 2, 3, 4])],
)
def test_a_smaller_budget_evicts_by_the_policy(data: Path, policy: str, evicted: list[int]) -> None:
    with running(data) as client:
        put_buffer(client, 8 * CHARGE, eviction=policy)
        push(client, OFFERED)
        info = patch(client, budget_bytes=4 * CHARGE)
        assert (info["evicted"], info["num_records"], info["version"]) == (evicted, 4, 2)
        assert held(client) == [id_ for id_ in range(1, 9) if id_ not in evicted]
        stats = assert_consistent(client, data)
        assert stats["bytes_used"] == 4 * CHARGE
    with running(data) as client:
        assert client.get("/v1/buffers/b").json()["budget_bytes"] == 4 * CHARGE
        assert_consistent(client, data)


def test_reject_refuses_a_budget_below_what_is_held(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 8 * CHARGE, eviction="reject")
    push(client, OFFERED[:6])
    before = whole_state(data)
    response = client.patch("/v1/buffers/b", json={"budget_bytes": 5 * CHARGE})
    assert_problem(
        response, "budget_exceeded", requested_bytes=6 * CHARGE, free_bytes=5 * CHARGE, budget_bytes=5 * CHARGE
    )
    assert whole_state(data) == before
    assert patch(client, budget_bytes=6 * CHARGE)["evicted"] == []
    # With another policy in the same request it goes.
    assert patch(client, budget_bytes=5 * CHARGE, eviction="fifo")["evicted"] == [1]


def test_what_is_absent_stays_and_null_is_the_default(data: Path) -> None:
    with running(data) as client:
        put_buffer(client, 5000, eviction="fifo", disk_limit_bytes=10**6, retain_snapshots=2, description="before")
        assert patch(client)["description"] == "before"
        assert patch(client, description="after")["disk_limit_bytes"] == 10**6
        assert patch(client, eviction="reservoir")["retain_snapshots"] == 2
        assert patch(client, retain_snapshots=None)["retain_snapshots"] is None
        info = patch(client, disk_limit_bytes=None)
        assert info["disk_limit_bytes"] == 5000 + 2**18
        state = whole_state(data)
    with running(data) as client:
        assert client.get("/v1/buffers/b").json() == {name: info[name] for name in info if name != "evicted"}
        assert whole_state(data) == state
        for bad in ({"budget": 1}, {"eviction": None}, {"eviction": "random"}, {"description": None}, {"name": "c"}):
            assert_problem(client.patch("/v1/buffers/b", json=bad), "invalid_request")
        assert_problem(client.patch("/v1/buffers/b", json={"description": "x" * 10_001}), "invalid_request")
        assert_problem(client.patch("/v1/buffers/b", json={"retain_snapshots": 0}), "invalid_request")
        assert whole_state(data) == state


def test_budget_and_disk_limit_shrink_and_grow_together(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 10**6, disk_limit_bytes=2 * 10**6)
    push(client, OFFERED)
    info = patch(client, budget_bytes=4 * CHARGE, disk_limit_bytes=400_000)
    assert (info["budget_bytes"], info["disk_limit_bytes"], len(info["evicted"])) == (4 * CHARGE, 400_000, 4)
    info = patch(client, budget_bytes=3 * 10**6, disk_limit_bytes=4 * 10**6)
    assert (info["budget_bytes"], info["disk_limit_bytes"]) == (3 * 10**6, 4 * 10**6)
    # One without the other.
    before = whole_state(data)
    assert_problem(client.patch("/v1/buffers/b", json={"budget_bytes": 5 * 10**6}), "invalid_budget")
    assert_problem(client.patch("/v1/buffers/b", json={"disk_limit_bytes": 10**6}), "invalid_budget")
    assert whole_state(data) == before
    assert_consistent(client, data)


# Policies, and what a push would do


def expected_to_stay(policy: str) -> list[int]:
    """Ranks, of eight records of one size, four of which fit."""
    if policy == "reservoir":
        keys = reservoir_keys("", np.arange(1, 9, dtype=np.uint64))
        return sorted(np.argsort(keys)[:4].tolist())
    return {"class_balanced": [0, 1, 2, 3], "lowest_score": [0, 2, 4, 6], "fifo": [4, 5, 6, 7]}[policy]


@pytest.mark.parametrize("sizes", [[8], [2, 2, 2, 2], [1] * 8, [5, 3]], ids=str)
@pytest.mark.parametrize("policy", [policy for policy in EVICTION_POLICIES if policy != "reject"])
def test_what_stays_however_it_is_pushed(data: Path, policy: str, sizes: list[int]) -> None:
    with running(data) as client:
        put_buffer(client, 4 * CHARGE, eviction=policy)
        offered, accepted, evicted = iter(OFFERED), [], []
        for size in sizes:
            answer = push(client, [next(offered) for _ in range(size)])
            accepted += [id_ for id_ in answer["exemplar_ids"] if id_ is not None]
            evicted += answer["evicted"]
            assert answer["kept"] + answer["rejected"] == size
            assert answer["bytes_used"] <= answer["budget_bytes"] == 4 * CHARGE
        assert kept_ranks(client) == expected_to_stay(policy)
        assert sorted(set(accepted) - set(evicted)) == held(client)
        assert_consistent(client, data)
    with running(data) as client:
        assert kept_ranks(client) == expected_to_stay(policy)
        assert push(client, [make_exemplar(0, 1000, score=-5)])["version"] >= 1
        assert_consistent(client, data)


def test_a_reservoir_counts_what_it_did_not_keep_also_over_a_restart(data: Path) -> None:
    """The ids of rejected records are spent, or the same keys would be drawn again."""
    with running(data) as client:
        put_buffer(client, 4 * CHARGE, eviction="reservoir")
        for record in OFFERED[:6]:
            push(client, [record])
    with running(data) as client:
        for record in OFFERED[6:]:
            push(client, [record])
        assert kept_ranks(client) == expected_to_stay("reservoir")


def test_made_up_classes_grow_a_budget_to_its_ceiling_only(data: Path) -> None:
    settings: dict[str, Any] = {"full_samples_per_class": 2, "full_sample_bytes": CHARGE}
    with running(data) as client:
        put_buffer(client, None, **settings, max_budget_bytes=9 * CHARGE)
        put_buffer(client, None, buffer="usual", **settings)
        ids = iter(range(10_000))
        answer: dict[str, Any] = {}
        for expected in (4, 8, 9, 9):
            answer = push(client, [make_exemplar(next(ids), seed=1) for _ in range(2)])
            assert answer["budget_bytes"] == expected * CHARGE
        assert answer["kept"] + len(answer["evicted"]) > 0
        for _ in range(4):
            answer = push(client, [make_exemplar(next(ids), seed=1) for _ in range(300)], buffer="usual")
        assert answer["budget_bytes"] == 2000 * CHARGE
        # A ceiling can be changed, and taken away.
        assert patch(client, max_budget_bytes=11 * CHARGE)["budget_bytes"] == 11 * CHARGE
        info = patch(client, max_budget_bytes=None)
        assert (info["budget_bytes"], info["max_budget_bytes"]) == (16 * CHARGE, None)
        patch(client, max_budget_bytes=3 * CHARGE)
        for bad in ({"max_budget_bytes": 2 * CHARGE - 1}, {"num_classes": 4}, {"max_budget_bytes": 2**50 + 1}):
            assert client.patch("/v1/buffers/b", json=bad).status_code == 422
        assert_problem(
            client.put("/v1/buffers/c", json={"budget_bytes": 5000, "max_budget_bytes": 6000}), "invalid_budget"
        )
        assert_consistent(client, data)
        before = client.get("/v1/buffers/b").json()
        file = client.get("/v1/buffers/b/export").content
    with running(data) as client:
        assert client.get("/v1/buffers/b").json() == before
        zipped = {"Content-Type": "application/zip"}
        assert client.post("/v1/buffers/copy/import", content=file, headers=zipped).json() == before | {"name": "copy"}


def test_all_budgets_together_have_a_quota(data: Path) -> None:
    zipped = {"Content-Type": "application/zip"}
    with running(data, total_budget_bytes=100_000) as client:
        put_buffer(client, 40_000)
        put_buffer(
            client, None, buffer="grows", full_samples_per_class=1, full_sample_bytes=1000, max_budget_bytes=30_000
        )
        before = whole_state(data)
        response = client.put("/v1/buffers/c", json={"budget_bytes": 30_001})
        document = assert_problem(response, "quota_exceeded", requested_bytes=30_001, free_bytes=30_000, limit=100_000)
        assert "max_budget_bytes" in document["detail"]
        growing = {"full_samples_per_class": 1, "full_sample_bytes": 1000}
        assert_problem(client.put("/v1/buffers/c", json=growing), "quota_exceeded", requested_bytes=10**6)
        assert_problem(client.patch("/v1/buffers/b", json={"budget_bytes": 70_001}), "quota_exceeded")
        assert_problem(client.post("/v1/buffers/b/forks", json={"name": "f"}), "quota_exceeded")
        file = client.get("/v1/buffers/b/export").content
        assert_problem(client.post("/v1/buffers/i/import", content=file, headers=zipped), "quota_exceeded")
        assert whole_state(data) == before
        # What is refused is not counted, and what goes makes room.
        patch(client, budget_bytes=70_000)
        patch(client, budget_bytes=20_000)
        assert client.post("/v1/buffers/b/forks", json={"name": "f"}).status_code == 201
        client.delete("/v1/buffers/f")
        assert client.post("/v1/buffers/i/import", content=file, headers=zipped).status_code == 201
        client.delete("/v1/buffers/i")
        assert put_buffer(client, 50_000, buffer="c")["budget_bytes"] == 50_000
        assert client.put("/v1/buffers/c", json={"budget_bytes": 50_000}).status_code == 200
    # One that is smaller by now leaves what is there.
    with running(data, total_budget_bytes=10_000) as client:
        assert len(client.get("/v1/buffers").json()["buffers"]) == 3
        assert_problem(client.patch("/v1/buffers/b", json={"budget_bytes": 20_001}), "quota_exceeded", free_bytes=0)
        patch(client, budget_bytes=19_999, description="smaller")


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
def test_a_dry_run_says_what_the_push_then_says(client: httpx.Client, data: Path, policy: str) -> None:
    put_buffer(client, 5 * CHARGE, eviction=policy)
    done: httpx.Response | None = None
    for number in range(5):
        batch = [make_exemplar(c, number, seed=10 * number + c, pad=40 * c) for c in range(1 + number % 3)]
        before, stats = whole_state(data), stats_of(client)
        rehearsed = client.post(URL, params={"dry_run": True}, content=encode_batch(batch), headers=ARROW)
        again = client.post(URL, params={"dry_run": True}, content=encode_batch(batch), headers=ARROW)
        assert (whole_state(data), stats_of(client)) == (before, stats)
        done = post(client, batch)
        assert (rehearsed.status_code, rehearsed.content) == (done.status_code, done.content)
        assert again.content == done.content
    # It came to evictions, or to a refusal.
    assert done is not None
    assert done.status_code == 507 if policy == "reject" else stats_of(client)["num_records"] < 9
    assert_consistent(client, data)


def test_a_dry_run_with_a_budget_that_grows(client: httpx.Client, data: Path) -> None:
    put_buffer(client, None, full_samples_per_class=1, full_sample_bytes=2 * CHARGE)
    push(client, OFFERED[:1])
    before = whole_state(data)
    batch = encode_batch(OFFERED)
    rehearsed = client.post(URL, params={"dry_run": True}, content=batch, headers=ARROW)
    assert rehearsed.json()["budget_bytes"] == 4 * CHARGE
    assert (whole_state(data), stats_of(client)["budget_bytes"]) == (before, 2 * CHARGE)
    assert client.post(URL, content=batch, headers=ARROW).content == rehearsed.content


def test_a_dry_run_keeps_no_key_and_knows_the_keys_there_are(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 5 * CHARGE)
    body, key = encode_batch(OFFERED[:2]), {"Idempotency-Key": "k"}
    first = client.post(URL, params={"dry_run": True}, content=body, headers={**ARROW, **key})
    done = client.post(URL, content=body, headers={**ARROW, **key})
    assert "Idempotency-Replayed" not in done.headers
    assert first.content == done.content
    known = client.post(URL, params={"dry_run": True}, content=body, headers={**ARROW, **key})
    assert known.headers["Idempotency-Replayed"] == "true"
    assert known.content == done.content
    other = encode_batch(OFFERED[:1])
    response = client.post(URL, params={"dry_run": True}, content=other, headers={**ARROW, **key})
    assert_problem(response, "idempotency_key_reused")


def test_a_dry_run_refuses_what_a_push_refuses(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 5 * CHARGE)
    before = whole_state(data)
    for body, code in ((b"no batch", "invalid_batch"), (encode_batch([large(0)]), "record_exceeds_budget")):
        assert_problem(client.post(URL, params={"dry_run": True}, content=body, headers=ARROW), code)
    assert_problem(client.post(URL, params={"dry_run": "maybe"}, content=b"", headers=ARROW), "invalid_request")
    assert whole_state(data) == before


@pytest.mark.parametrize(("policy", "following"), [("class_balanced", 2), ("lowest_score", 2), ("reservoir", 9)])
def test_ids_of_pushes_of_which_nothing_is_kept(client: httpx.Client, data: Path, policy: str, following: int) -> None:
    """They are spent where the policy draws by them, or another record of the push is kept."""
    put_buffer(client, CHARGE, eviction=policy)
    for rank in range(8):
        push(client, [make_exemplar(0, rank, seed=1, score=-rank)])
    client.delete(URL, params={"class_id": 0})
    assert push(client, [make_exemplar(0, 9, seed=1)] * 3)["exemplar_ids"].count(None) == 2
    assert held(client)[0] in range(following, following + 3)
    client.delete(URL, params={"class_id": 0})
    assert push(client, [make_exemplar(0, 9, seed=1)])["exemplar_ids"] == [following + 3]
    assert_consistent(client, data)


# The disk limit


def test_the_default_disk_limit(client: httpx.Client) -> None:
    for budget, limit in ((1000, 1000 + 2**18), (2**19, 2**19 + 2**18), (2**20, 2**20 * 3 // 2)):
        assert put_buffer(client, budget, buffer=f"b{budget}")["disk_limit_bytes"] == limit


def test_snapshots_that_pin_too_much_stop_pushes(client: httpx.Client, data: Path) -> None:
    budget = 30 * LARGE
    limit = 4 * budget
    put_buffer(client, budget, eviction="fifo", disk_limit_bytes=limit)
    refused: httpx.Response | None = None
    before = whole_state(data)
    stats: dict[str, Any] = {}
    for phase in range(8):
        assert client.put(f"/v1/buffers/b/snapshots/p{phase}").status_code == 201
        before = whole_state(data)
        refused = post(client, [large(rank, phase) for rank in range(30)])
        stats = assert_consistent(client, data)
        if refused.status_code != 200:
            break
    assert refused is not None
    document = assert_problem(
        refused, "disk_limit_exceeded", disk_limit_bytes=limit, pinned_bytes=stats["pinned_bytes"]
    )
    assert document["free_bytes"] <= limit - stats["disk_bytes"]
    assert document["requested_bytes"] > max(document["free_bytes"], budget)
    assert "delete" in document["detail"]
    assert whole_state(data) == before
    assert stats["pinned_bytes"] >= budget
    # Reads go on, and so do pushes once snapshots go.
    assert len(all_records(client)) == 30
    for phase in range(1, 4):
        if client.get(f"/v1/buffers/b/snapshots/p{phase}").status_code == 200:
            assert client.delete(f"/v1/buffers/b/snapshots/p{phase}").status_code == 204
    assert assert_consistent(client, data)["pinned_bytes"] < stats["pinned_bytes"]
    assert post(client, [large(rank, 99) for rank in range(30)]).status_code == 200
    assert_consistent(client, data)


def test_a_smaller_disk_limit_counts_once_everything_fits(client: httpx.Client, data: Path) -> None:
    budget = 30 * LARGE
    put_buffer(client, budget, eviction="fifo", disk_limit_bytes=20 * budget)
    for phase in range(4):
        push(client, [large(rank, phase) for rank in range(30)])
        client.put(f"/v1/buffers/b/snapshots/p{phase}")
    pinned = assert_consistent(client, data)["pinned_bytes"]
    assert pinned == 3 * budget
    before = whole_state(data)
    response = client.patch("/v1/buffers/b", json={"disk_limit_bytes": 3 * budget})
    assert_problem(response, "disk_limit_exceeded", disk_limit_bytes=3 * budget, requested_bytes=4 * budget)
    assert whole_state(data) == before
    for phase in range(4):
        client.delete(f"/v1/buffers/b/snapshots/p{phase}")
    patch(client, disk_limit_bytes=2 * budget)
    stats = assert_consistent(client, data)
    assert stats["disk_bytes"] <= 2 * budget == stats["disk_limit_bytes"]


def test_a_patch_is_one_change_or_none(client: httpx.Client, data: Path) -> None:
    """What is evicted, the budget and a disk limit for which segments have to be rewritten first."""
    put_buffer(client, 60 * LARGE, eviction="lowest_score", disk_limit_bytes=600 * LARGE, description="before")
    push(client, [make_exemplar(rank % 3, rank, seed=1, score=rank * 7 % 60, pad=2000) for rank in range(60)])
    client.put("/v1/buffers/b/snapshots/s")
    before, records, settings = whole_state(data), all_records(client), client.get("/v1/buffers/b").json()
    # The snapshot goes on holding what would be evicted.
    wanted = {"budget_bytes": 10 * LARGE, "disk_limit_bytes": 20 * LARGE, "description": "after"}
    response = client.patch("/v1/buffers/b", json=wanted)
    assert_problem(response, "disk_limit_exceeded", disk_limit_bytes=20 * LARGE, requested_bytes=60 * LARGE)
    assert whole_state(data) == before
    # That all would just fit shows only when segments have been rewritten.
    response = client.patch("/v1/buffers/b", json=wanted | {"disk_limit_bytes": 60 * LARGE + 1000})
    assert assert_problem(response, "disk_limit_exceeded")["requested_bytes"] > 60 * LARGE + 1000
    assert client.get("/v1/buffers/b").json() == settings
    assert all_records(client) == records
    assert_consistent(client, data)

    client.put("/v1/buffers/b/snapshots/t")
    limit = 10 * LARGE + 60_000
    response = client.patch("/v1/buffers/b", json=wanted | {"disk_limit_bytes": limit, "retain_snapshots": 1})
    assert assert_problem(response, "disk_limit_exceeded")["requested_bytes"] > limit
    assert [s["name"] for s in client.get("/v1/buffers/b/snapshots").json()["snapshots"]] == ["s", "t"]
    for name in ("s", "t"):
        client.delete(f"/v1/buffers/b/snapshots/{name}")
    info = patch(client, **wanted | {"disk_limit_bytes": limit})
    best = sorted(records, key=lambda record: -record.score)[:10]
    assert sorted(info["evicted"]) == sorted({r.exemplar_id for r in records} - {r.exemplar_id for r in best})
    assert info["version"] == settings["version"] + 1
    assert {record.exemplar_id for record in all_records(client)} == {record.exemplar_id for record in best}
    stats = assert_consistent(client, data)
    assert stats["disk_bytes"] <= limit == stats["disk_limit_bytes"]


def test_twenty_times_the_budget_stays_within_both_limits(client: httpx.Client, data: Path) -> None:
    budget = 40 * LARGE
    put_buffer(client, budget)
    for round_ in range(80):
        push(client, [large(80 - round_, c) for c in range(10)])
        stats = stats_of(client)
        files = sum(path.stat().st_size for path in (data / "segments").iterdir())
        assert stats["bytes_used"] <= budget
        assert files + stats["index_bytes"] == stats["disk_bytes"] <= stats["disk_limit_bytes"]
    assert assert_consistent(client, data)["num_records"] == 40


@pytest.mark.parametrize("policy", ["class_balanced", "fifo"])
@pytest.mark.parametrize("budget", [10**5, 10**6])
def test_a_quarter_of_the_budget_at_once_goes_in(client: httpx.Client, data: Path, budget: int, policy: str) -> None:
    put_buffer(client, budget, eviction=policy)
    rng = np.random.default_rng(0)
    pad = budget // 200
    count = budget // 4 // make_exemplar(seed=1, pad=pad).charge
    for _ in range(16):
        places = zip(rng.integers(10, size=count).tolist(), rng.integers(99, size=count).tolist(), strict=True)
        push(client, [make_exemplar(class_id, rank, seed=1, pad=pad) for class_id, rank in places])
        stats = stats_of(client)
        assert stats["disk_bytes"] <= stats["disk_limit_bytes"]
    assert_consistent(client, data)


def test_no_push_uses_up_the_room_that_rewriting_needs(client: httpx.Client, data: Path) -> None:
    """Large pushes whose evictions are spread over all segments: some may be refused, small ones go on."""
    put_buffer(client, 10**6)
    rng = np.random.default_rng(0)

    def record(rank: int | None = None) -> Record:
        chosen = int(rng.integers(1000)) if rank is None else rank
        return make_exemplar(int(rng.integers(10)), chosen, seed=1, pad=5000)

    for _ in range(16):
        response = post(client, [record() for _ in range(60)])
        if response.status_code != 200:
            assert_problem(response, "disk_limit_exceeded")
    assert_consistent(client, data)
    for _ in range(60):
        assert push(client, [record(0)])["kept"] == 1
    stats = assert_consistent(client, data)
    assert stats["disk_bytes"] <= stats["disk_limit_bytes"] == 1_500_000


def test_sealing_leaves_the_room_that_rewriting_needs(data: Path) -> None:
    """A clean end seals what fits; after it, pushes go on."""
    rng = np.random.default_rng(0)
    with running(data) as client:
        put_buffer(client, 10**6)
        for _ in range(20):
            places = zip(rng.integers(10, size=40).tolist(), rng.integers(99, size=40).tolist(), strict=True)
            push(client, [make_exemplar(class_id, rank, seed=1, pad=5000) for class_id, rank in places])
    for _ in range(2):
        with running(data) as client:
            for class_id in range(10):
                assert push(client, [make_exemplar(class_id, 0, seed=1, pad=5000)])["kept"] == 1
            assert_consistent(client, data)


def test_a_growing_budget_ends_at_the_disk_limit(client: httpx.Client, data: Path) -> None:
    """Where one was given: the budget could not be used beyond it."""
    size = 10 * LARGE
    put_buffer(client, None, full_samples_per_class=1, full_sample_bytes=size, disk_limit_bytes=2 * size + 2**18)
    for class_id in range(30):
        # In turn full classes, and ones of which there is little.
        response = post(client, [large(rank, class_id) for rank in range(10 if class_id % 2 else 1)])
        stats = stats_of(client)
        assert stats["budget_bytes"] <= stats["disk_limit_bytes"]
        assert stats["disk_bytes"] <= stats["disk_limit_bytes"]
        if response.status_code != 200:
            assert response.status_code in (422, 507), response.text
    assert_consistent(client, data)
    # Settings can still be changed.
    patch(client, description="still alive")
