"""Drawing over HTTP; ``test_sampler_pure.py`` has the pure functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    Server,
    all_records,
    assert_problem,
    contents,
    make_exemplar,
    push,
    put_buffer,
    sample,
)


def fill(client: httpx.Client) -> None:
    put_buffer(client)
    push(
        client,
        [make_exemplar(c, rank, phase=c // 2, learner_id=f"l{c % 2}") for c in range(4) for rank in range(6)],
    )


def test_the_same_request_gives_the_same_batch_after_a_restart_and_in_another_process(data: Path) -> None:
    wanted: dict[str, Any] = {
        "batch_size": 64,
        "seed": 5,
        "step": 9,
        "strategy": "class_balanced",
        "repair_text": 0.5,
        "phase": [0, 1],
    }
    with running(data) as client:
        fill(client)
        first = sample(client, **wanted)
        assert contents(sample(client, **wanted)) == contents(first)
        assert contents(sample(client, **{**wanted, "step": 10})) != contents(first)
        assert contents(sample(client, **{**wanted, "seed": 6})) != contents(first)
    with running(data) as client:
        assert contents(sample(client, **wanted)) == contents(first)
    with Server(data) as server, server.client() as client:
        assert contents(sample(client, **wanted)) == contents(first)
        push(client, [make_exemplar(9)])
        assert contents(sample(client, **wanted)) != contents(first)


def test_the_answer_names_its_version_and_refuses_another(client: httpx.Client) -> None:
    fill(client)
    response = client.post("/v1/buffers/b/sample", json={"batch_size": 3, "version": 1})
    assert response.headers["Exemplar-Memory-Version"] == "1"
    assert response.headers["content-type"] == "application/vnd.apache.arrow.stream"
    response = client.post("/v1/buffers/b/sample", json={"batch_size": 3, "version": 2})
    assert_problem(response, "stale_version", version=1, expected_version=2)


def test_parts_of_a_batch_are_answered_alone(client: httpx.Client) -> None:
    fill(client)
    for wanted in (
        {"repair_text": 0.5, "step": 3},
        {"strategy": "class_balanced", "replace": False, "stream": "second"},
        {"strategy": "score_weighted", "class_id": [1, 2]},
    ):
        whole = sample(client, batch_size=11, **wanted)
        parts = [sample(client, batch_size=11, part=part, parts=4, **wanted) for part in range(4)]
        assert list(map(len, parts)) == [2, 3, 3, 3]
        assert contents([record for part in parts for record in part]) == contents(whole)
    # What is drawn may be more than is answered at once.
    whole = sample(client, batch_size=40_000, part=9, parts=10, step=1)
    assert len(whole) == 4000
    response = client.post("/v1/buffers/b/sample", json={"batch_size": 8194, "parts": 2})
    assert "at most 4096 records" in assert_problem(response, "invalid_query")["detail"]


def test_streams_are_other_draws(client: httpx.Client) -> None:
    fill(client)
    drawn = {
        stream: contents(sample(client, batch_size=30, stream=stream)) for stream in ("", "left", "right", "~ " * 32)
    }
    assert drawn[""] == contents(sample(client, batch_size=30))
    assert all(one == two or drawn[one] != drawn[two] for one in drawn for two in drawn)


def test_filters_and_replacement(client: httpx.Client) -> None:
    fill(client)
    drawn = sample(client, batch_size=100, class_id=[1, 3], learner_id=["l1"], phase=[0])
    assert {record.class_id for record in drawn} == {1}
    drawn = sample(client, batch_size=24, replace=False)
    assert sorted(record.exemplar_id for record in drawn) == list(range(1, 25))
    drawn = sample(client, batch_size=10, replace=False, strategy="class_balanced")
    assert sorted(np.bincount([record.class_id for record in drawn]).tolist()) == [2, 2, 3, 3]
    response = client.post("/v1/buffers/b/sample", json={"batch_size": 25, "replace": False})
    assert_problem(response, "invalid_query", matching=24, batch_size=25)
    for nothing in ({"class_id": [77]}, {"learner_id": ["nobody"]}, {"phase": [0], "class_id": [3]}):
        assert_problem(client.post("/v1/buffers/b/sample", json={"batch_size": 1, **nothing}), "no_matching_exemplars")


def test_repaired_text_is_another_record_of_the_same_class(client: httpx.Client) -> None:
    fill(client)
    push(client, [make_exemplar(50, 0)])  # alone in its class: nobody's text to take
    originals = {r.exemplar_id: r for r in sample(client, batch_size=25, replace=False)}
    repaired = sample(client, batch_size=400, repair_text=1.0, strategy="class_balanced")
    donors = set()
    for record in repaired:
        original = originals[record.exemplar_id]
        assert (record.payload, record.keep_mask_bytes) == (original.payload, original.keep_mask_bytes)
        class_id, donor_rank = record.token_ids.tolist()[:2]
        assert class_id == record.class_id
        donor = next(r for r in originals.values() if (r.class_id, r.rank) == (class_id, donor_rank))
        assert record.token_mask_bytes == donor.token_mask_bytes
        assert (donor_rank == record.rank) == (class_id == 50)
        donors.add((class_id, record.rank, donor_rank))
    assert len(donors) > 100  # of 4 classes x 6 x 5 pairs, and the one alone
    some = sample(client, batch_size=1000, repair_text=0.25, class_id=[0, 1, 2, 3])
    swapped = sum(record.token_ids[1] != record.rank for record in some)
    assert 180 < swapped < 320


def test_an_empty_buffer_and_bad_requests(client: httpx.Client) -> None:
    put_buffer(client)
    url = "/v1/buffers/b/sample"
    assert_problem(client.post(url, json={"batch_size": 1}), "no_matching_exemplars")
    refused: list[Any] = [
        {},
        {"batch_size": 0},
        {"batch_size": 1, "strategy": "fair"},
        {"batch_size": 1, "repair_text": 1.5},
        {"batch_size": 1, "seed": -1},
        {"batch_size": 1, "class_id": []},
        {"batch_size": 1, "clas_id": [1]},
        {"batch_size": 1, "class_id": [2**32]},
        {"batch_size": 1, "stream": "a" * 65},
        {"batch_size": 1, "stream": "\n"},
        {"batch_size": 1, "stream": 1},
        {"batch_size": 4, "part": -1, "parts": 4},
        {"batch_size": 4, "parts": 0},
        {"batch_size": 65_537, "parts": 20},
        [],
    ]
    for bad in refused:
        assert_problem(client.post(url, json=bad), "invalid_request")
    for no_part in (
        {"batch_size": 4097},
        {"batch_size": 4, "part": 4, "parts": 4},
        {"batch_size": 4, "part": 1},
        {"batch_size": 4, "parts": 5},
        {"batch_size": 8194, "parts": 2},
    ):
        assert_problem(client.post(url, json=no_part), "invalid_query", batch_size=no_part["batch_size"])
    assert_problem(client.post("/v1/buffers/nope/sample", json={"batch_size": 1}), "unknown_buffer")


def test_a_batch_over_the_response_limit_is_refused(data: Path) -> None:
    with running(data, max_response_bytes=10_000) as client:
        fill(client)
        assert len(sample(client, batch_size=10)) == 10
        document = assert_problem(
            client.post("/v1/buffers/b/sample", json={"batch_size": 1000}), "batch_too_large", limit=10_000
        )
        assert document["requested_bytes"] > 10_000


def test_score_weighted_draws_by_the_score(client: httpx.Client) -> None:
    put_buffer(client)
    scores = [4.0, 1.0, 0.0, -3.0, 5.0]
    push(client, [make_exemplar(number % 2, number, score=score) for number, score in enumerate(scores)])
    drawn = sample(client, batch_size=4000, strategy="score_weighted", seed=2)
    counts = np.bincount([record.exemplar_id for record in drawn], minlength=6)[1:]
    expected = np.array([0.4, 0.1, 0, 0, 0.5]) * 4000
    assert counts[2] == counts[3] == 0
    assert np.abs(counts - expected).max() < 4 * np.sqrt(1000)
    # Without replacement: all that have a positive score, and no more.
    ids = [r.exemplar_id for r in sample(client, batch_size=3, strategy="score_weighted", replace=False)]
    assert sorted(ids) == [1, 2, 5]
    ids = [r.exemplar_id for r in sample(client, batch_size=2, strategy="score_weighted", class_id=[0], replace=False)]
    assert sorted(ids) == [1, 5]
    # Priorities are changed with PATCH, and count at once.
    client.patch("/v1/buffers/b/exemplars", json={"exemplar_ids": [1, 2, 3, 5], "scores": [0, 0, 9, -1]})
    drawn = sample(client, batch_size=50, strategy="score_weighted")
    assert {record.exemplar_id for record in drawn} == {3}


def test_score_weighted_with_too_few_positive_scores(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, [make_exemplar(number, 0, score=score) for number, score in enumerate([1.0, 2.0, 0.0, -1.0])])
    url, wanted = "/v1/buffers/b/sample", {"strategy": "score_weighted"}
    response = client.post(url, json={**wanted, "batch_size": 3, "replace": False})
    assert_problem(response, "invalid_query", batch_size=3, matching=4, positive=2)
    for replace in (True, False):
        body = {**wanted, "batch_size": 1, "class_id": [2, 3], "replace": replace}
        assert_problem(client.post(url, json=body), "invalid_query", matching=2, positive=0)
    assert_problem(client.post(url, json={**wanted, "batch_size": 1, "class_id": [9]}), "no_matching_exemplars")


def test_a_weighted_batch_is_the_same_in_another_process(data: Path) -> None:
    wanted: dict[str, Any] = {"batch_size": 32, "seed": 4, "step": 7, "strategy": "score_weighted", "version": 2}
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(number % 3, number, score=0.1 + number) for number in range(40)])
        client.patch("/v1/buffers/b/exemplars", json={"exemplar_ids": [1, 2], "scores": [30.5, 0.25]})
        batches = [contents(sample(client, **wanted, replace=replace)) for replace in (True, False)]
        client.put("/v1/buffers/b/snapshots/s")
        assert len({exemplar_id for exemplar_id, *_ in batches[1]}) == 32
    with Server(data) as server, server.client() as client:
        for replace, batch in zip((True, False), batches, strict=True):
            assert contents(sample(client, **wanted, replace=replace)) == batch
            assert contents(sample(client, **wanted, replace=replace, snapshot="s")) == batch


def test_a_draw_can_leave_out_learners(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, [make_exemplar(0, rank, learner_id=f"l{rank % 3}") for rank in range(12)])
    wanted: dict[str, Any] = {"batch_size": 16, "seed": 3, "step": 5}
    others = sample(client, **wanted, not_learner_id=["l0"])
    assert {record.learner_id for record in others} == {"l1", "l2"}
    # The same records among which to draw are the same batch, and the same request always is.
    assert (
        others == sample(client, **wanted, learner_id=["l1", "l2"]) == sample(client, **wanted, not_learner_id=["l0"])
    )
    assert {record.learner_id for record in sample(client, **wanted, not_learner_id=["l0", "l2"])} == {"l1"}
    assert {record.learner_id for record in sample(client, **wanted, not_learner_id=["nobody"])} == {"l0", "l1", "l2"}
    both: dict[str, Any] = {"learner_id": ["l0", "l1"], "not_learner_id": ["l0"]}
    assert {record.learner_id for record in sample(client, **wanted, **both)} == {"l1"}
    nothing = client.post("/v1/buffers/b/sample", json={**wanted, "not_learner_id": ["l0", "l1", "l2"]})
    assert_problem(nothing, "no_matching_exemplars")
    listed = all_records(client, not_learner_id=["l0", "l1"])
    assert {record.learner_id for record in listed} == {"l2"}
    deletion = client.delete("/v1/buffers/b/exemplars", params={"class_id": 0, "not_learner_id": "l0"})
    assert_problem(deletion, "invalid_request")
