"""A share of the budget for each learner: whoever pushes much, or calls it good, pushes nobody out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import Record, encode_batch
from memory_format.api.terms import EVICTION_POLICIES
from memory_service.store import Store
from memory_service.store.keys import KeyFile
from tests.memory_service.conftest import running
from tests.memory_service.helpers import ARROW, make_exemplar, push, put_buffer, stats_of

HONEST = [
    make_exemplar(number % 10, number // 10, seed=1, score=number / 200, learner_id="honest") for number in range(150)
]
# In the honest one's classes, and in as many of its own: each the best of its class, by what it says itself.
GREEDY = [make_exemplar(number % 20, 0, seed=1, score=1.0, learner_id="greedy") for number in range(360)]
CHARGE = HONEST[0].charge
BUDGET = 200 * CHARGE


def after_both(client: httpx.Client, policy: str, *, first: list[Record], **settings: Any) -> dict[str, int]:
    """Learner -> records that stay, of a buffer of its own."""
    put_buffer(client, BUDGET, buffer=policy, eviction=policy, **settings)
    second = GREEDY if first is HONEST else HONEST
    for records in (first, second):
        for place in range(0, len(records), 50):
            address, batch = f"/v1/buffers/{policy}/exemplars", encode_batch(records[place : place + 50])
            tried = client.post(address, params={"dry_run": "true"}, content=batch, headers=ARROW)
            done = client.post(address, content=batch, headers=ARROW)
            assert done.status_code == 200 or (policy == "reject" and done.json()["code"] == "budget_exceeded")
            assert tried.content == done.content
    learners: dict[str, int] = stats_of(client, buffer=policy)["learners"]
    client.delete(f"/v1/buffers/{policy}")
    return learners


def test_an_honest_learner_keeps_its_share_beside_a_greedy_one_under_every_policy(client: httpx.Client) -> None:
    assert {record.charge for record in (*HONEST, *GREEDY)} == {CHARGE}
    for policy in EVICTION_POLICIES:
        before = after_both(client, policy, first=HONEST)
        for share, least in ((0.25, 50), (0.5, 100), (1.0, 100)):
            kept = after_both(client, policy, first=HONEST, learner_floor=share)
            assert kept["honest"] >= least, (policy, share, before)
            # Nor does it take more from the other than is its own; and the budget is used as far as without.
            assert kept["greedy"] >= 50, (policy, share)
            assert sum(before.values()) - 1 <= sum(kept.values()) <= 200
        if policy in ("class_balanced", "lowest_score", "fifo"):
            assert before.get("honest", 0) <= 10
        if policy != "reject":
            # Whoever comes second has its share all the same.
            assert after_both(client, policy, first=GREEDY, learner_floor=0.5)["honest"] >= 100


def test_beside_a_greedy_one_a_learner_with_a_key_keeps_its_share_of_budget_and_rate(data: Path) -> None:
    """Under every policy, in one run: what is asked for too fast, and what is pushed too much, costs who does so."""
    keys = {name: KeyFile(data).make("write", 0.0, learner_id=name)[1] for name in ("honest", "greedy")}
    with running(data, key_requests=10) as client:
        store: Store = client.app.state.store  # type: ignore[attr-defined]

        def ask(learner: str, policy: str, records: list[Record] | None = None) -> int:
            headers = ARROW | {"Authorization": f"Bearer {keys[learner]}"}
            address = f"/v1/buffers/{policy}"
            if records is None:
                return client.get(address, headers=headers).status_code
            return client.post(f"{address}/exemplars", content=encode_batch(records), headers=headers).status_code

        for policy in EVICTION_POLICIES:
            buffer, _ = store.create_buffer(policy, budget_bytes=BUDGET, eviction=policy, learner_floor=0.5)
            assert ask("honest", policy, HONEST) == 200
            # Nor can it push in the other's name.
            for records, answers in ((HONEST[:1], {403}), (GREEDY[:50], {200}), (GREEDY[50:], {200, 507})):
                while (answer := ask("greedy", policy, records)) == 429:
                    pass
                assert answer in answers
            assert 429 in (ask("greedy", policy) for _ in range(1000))
            assert ask("honest", policy) == 200
            assert buffer.stats().learners["honest"] >= 100, policy
            assert buffer.stats().learners["greedy"] >= 50, policy


def test_floors_that_do_not_fit_together_are_lowered_alike(client: httpx.Client) -> None:
    put_buffer(client, BUDGET, eviction="fifo", learner_floor=0.5)
    for number in range(4):
        push(client, [make_exemplar(0, rank, seed=1, learner_id=f"l{number}") for rank in range(120)])
    assert stats_of(client)["learners"] == {f"l{number}": 50 for number in range(4)}
    # A budget that shrinks leaves each the same again.
    client.patch("/v1/buffers/b", json={"budget_bytes": BUDGET // 2})
    assert stats_of(client)["learners"] == {f"l{number}": 25 for number in range(4)}
    # Without a floor the oldest goes, whoever's it is.
    assert client.patch("/v1/buffers/b", json={"learner_floor": None}).json()["learner_floor"] is None
    push(client, [make_exemplar(0, rank, seed=1, learner_id="l9") for rank in range(50)])
    assert stats_of(client)["learners"] == {"l2": 25, "l3": 25, "l9": 50}


def test_the_floor_goes_along(data: Path, tmp_path: Path) -> None:
    with running(data) as client:
        put_buffer(client, BUDGET, learner_floor=0.25)
        push(client, HONEST[:20])
        response = client.put("/v1/buffers/b", json={"budget_bytes": BUDGET})
        assert (response.status_code, response.json()["existing"]) == (409, {"learner_floor": 0.25})
        assert client.post("/v1/buffers/b/forks", json={"name": "f"}).json()["learner_floor"] == 0.25
        exported = client.get("/v1/buffers/b/export").content
        client.post("/v1/buffers/i/import", content=exported, headers={"Content-Type": "application/zip"})
    with Store(data) as store:
        assert {buffer.name: buffer.config.learner_floor for buffer in store.buffers()} == dict.fromkeys("bfi", 0.25)


@pytest.mark.parametrize("floor", [0.5, 1.0])
def test_one_learner_has_all_that_no_other_needs(client: httpx.Client, floor: float) -> None:
    put_buffer(client, BUDGET, eviction="fifo", learner_floor=floor)
    push(client, GREEDY)
    assert stats_of(client)["learners"] == {"greedy": 200}
    push(client, HONEST[:30])
    assert stats_of(client)["learners"] == {"greedy": 170, "honest": 30}
