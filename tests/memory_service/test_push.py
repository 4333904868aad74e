"""Pushing: what is answered, what is on disk, and what a repeated push does."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from memory_format import decode_batch, encode_batch
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    ARROW,
    all_records,
    assert_consistent,
    assert_problem,
    contents,
    make_exemplar,
    push,
    put_buffer,
    whole_state,
)

URL = "/v1/buffers/b/exemplars"


def test_ids_ascend_and_what_was_pushed_comes_back(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    first = [make_exemplar(c, rank, codec="webp", pad=7 * c) for c in range(3) for rank in range(4)]
    answer = push(client, first)
    assert answer == {
        "exemplar_ids": list(range(1, 13)),
        "kept": 12,
        "rejected": 0,
        "evicted": [],
        "bytes_used": sum(record.charge for record in first),
        "budget_bytes": 10**6,
        "version": 1,
    }
    assert push(client, [make_exemplar(9)])["exemplar_ids"] == [13]
    found = all_records(client)
    assert [record.body for record in found] == [record.body for record in [*first, make_exemplar(9)]]
    assert_consistent(client, data)


def test_a_full_buffer_keeps_the_best_of_every_class(client: httpx.Client, data: Path) -> None:
    charge = make_exemplar().charge
    put_buffer(client, 8 * charge)
    assert push(client, [make_exemplar(0, rank) for rank in range(8)])["kept"] == 8
    answer = push(client, [make_exemplar(1, rank) for rank in range(8)])
    assert answer["exemplar_ids"] == [9, 10, 11, 12, None, None, None, None]
    assert (answer["kept"], answer["rejected"], answer["evicted"]) == (4, 4, [5, 6, 7, 8])
    assert {(r.class_id, r.rank) for r in all_records(client)} == {(c, rank) for c in (0, 1) for rank in range(4)}
    assert_consistent(client, data)
    assert_problem(client.get(f"{URL}/5"), "unknown_exemplar")
    # Ids are not used again: every record offered took one, the evicted and the never kept too.
    assert push(client, [make_exemplar(2, 0)])["exemplar_ids"] == [17]
    assert_consistent(client, data)


def test_an_empty_batch_is_taken_and_changes_nothing(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    push(client, [make_exemplar()])
    before = whole_state(data)
    answer = push(client, [])
    assert (answer["exemplar_ids"], answer["kept"], answer["version"]) == ([], 0, 1)
    assert whole_state(data) == before


def test_reject_refuses_the_whole_push(client: httpx.Client, data: Path) -> None:
    charge = make_exemplar().charge
    put_buffer(client, 5 * charge, eviction="reject")
    push(client, [make_exemplar(0, rank) for rank in range(4)])
    before = whole_state(data)
    response = client.post(URL, content=encode_batch([make_exemplar(1, 0), make_exemplar(1, 1)]), headers=ARROW)
    assert_problem(response, "budget_exceeded", requested_bytes=2 * charge, free_bytes=charge, budget_bytes=5 * charge)
    assert whole_state(data) == before
    assert push(client, [make_exemplar(1, 0)])["bytes_used"] == 5 * charge
    assert_consistent(client, data)


def test_a_record_over_the_budget_refuses_the_whole_push(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 1000)
    push(client, [make_exemplar()])
    before = whole_state(data)
    large = make_exemplar(1, pad=2000)
    response = client.post(URL, content=encode_batch([make_exemplar(1, 1), large]), headers=ARROW)
    assert_problem(response, "record_exceeds_budget", requested_bytes=large.charge, budget_bytes=1000, index=1)
    assert whole_state(data) == before
    assert_consistent(client, data)


def test_a_push_with_a_key_happens_once(data: Path) -> None:
    records = [make_exemplar(0, rank) for rank in range(3)]
    with running(data) as client:
        put_buffer(client)
        first = client.post(URL, content=encode_batch(records), headers={**ARROW, "Idempotency-Key": "k 1"})
        assert "Idempotency-Replayed" not in first.headers
        push(client, [make_exemplar(5)])
        state = whole_state(data)
        again = client.post(URL, content=encode_batch(records), headers={**ARROW, "Idempotency-Key": "k 1"})
        assert again.headers["Idempotency-Replayed"] == "true"
        assert (again.status_code, again.content) == (200, first.content)
        assert whole_state(data) == state
        other = client.post(URL, content=encode_batch(records[:1]), headers={**ARROW, "Idempotency-Key": "k 1"})
        assert_problem(other, "idempotency_key_reused")
        # Another buffer's keys are its own.
        put_buffer(client, buffer="c")
        assert push(client, records, buffer="c", key="k 1")["kept"] == 3
        client.delete("/v1/buffers/c")
    # A clean end seals what was open.
    state = whole_state(data)
    with running(data) as client:
        again = client.post(URL, content=encode_batch(records), headers={**ARROW, "Idempotency-Key": "k 1"})
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.content == first.content
        assert whole_state(data) == state
        assert_consistent(client, data)


def test_learners_that_name_their_pushes_alike_do_not_meet(data: Path) -> None:
    batches = {name: [make_exemplar(n, n, learner_id=name) for n in range(2)] for name in ("left", "right")}
    with running(data) as client:
        put_buffer(client)
        first = {name: push(client, batch, key="phase-1") for name, batch in batches.items()}
        assert [answer["exemplar_ids"] for answer in first.values()] == [[1, 2], [3, 4]]
    # After a restart, too.
    with running(data) as client:
        assert {name: push(client, batch, key="phase-1") for name, batch in batches.items()} == first
        headers = {**ARROW, "Idempotency-Key": "phase-1"}
        other = client.post(URL, content=encode_batch(batches["right"][:1]), headers=headers)
        assert_problem(other, "idempotency_key_reused")
        assert "'right'" in other.json()["detail"]
        assert_consistent(client, data)


def test_keys_are_forgotten_after_their_time(data: Path) -> None:
    with running(data, idempotency_hours=1e-9) as client:
        put_buffer(client)
        assert push(client, [make_exemplar()], key="a")["exemplar_ids"] == [1]
        push(client, [make_exemplar(rank=1)], key="b")
        assert push(client, [make_exemplar()], key="a")["exemplar_ids"] == [3]
        assert len(whole_state(data)["pushes"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 129, "tab\there", "h\u00e9"])
def test_keys_that_will_not_do(client: httpx.Client, key: str) -> None:
    put_buffer(client)
    headers = [*((name.encode(), value.encode()) for name, value in ARROW.items()), (b"Idempotency-Key", key.encode())]
    assert_problem(client.post(URL, content=encode_batch([]), headers=headers), "invalid_request")


def test_the_same_push_from_many_threads_happens_once(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    body = encode_batch([make_exemplar(0, rank) for rank in range(20)])
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(client.post(URL, content=body, headers={**ARROW, "Idempotency-Key": "once"}))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    assert assert_consistent(client, data)["num_records"] == 20


def test_threads_that_push_and_sample_at_once(data: Path) -> None:
    with running(data, open_segments=2) as client:
        put_buffer(client, 40 * make_exemplar().charge)
        push(client, [make_exemplar(0, rank) for rank in range(4)])
        sent: dict[int, bytes] = {record.exemplar_id: record.body for record in all_records(client)}
        failures: list[str] = []
        done = threading.Event()

        def pusher(class_id: int) -> None:
            for round_ in range(12):
                batch = [make_exemplar(class_id, 12 - round_, seed=class_id * 1000 + round_ * 10 + i) for i in range(5)]
                answer = push(client, batch)
                pushed = zip(answer["exemplar_ids"], batch, strict=True)
                sent.update({exemplar_id: record.body for exemplar_id, record in pushed if exemplar_id is not None})

        drawn: list[tuple[int, bytes]] = []

        def sampler(seed: int) -> None:
            step = 0
            while not done.is_set():
                step += 1
                response = client.post("/v1/buffers/b/sample", json={"batch_size": 32, "seed": seed, "step": step})
                if response.status_code != 200:
                    failures.append(response.text)
                    return
                drawn.extend((record.exemplar_id, record.body) for record in decode_batch(response.content))

        pushers = [threading.Thread(target=pusher, args=(class_id,)) for class_id in range(1, 4)]
        samplers = [threading.Thread(target=sampler, args=(seed,)) for seed in range(3)]
        for thread in [*pushers, *samplers]:
            thread.start()
        for thread in pushers:
            thread.join()
        done.set()
        for thread in samplers:
            thread.join()
        assert not failures
        assert len(drawn) > 100
        assert all(sent[exemplar_id] == body for exemplar_id, body in drawn)
        found = all_records(client)
        assert contents(found) == [(r.exemplar_id, r.class_id, sent[r.exemplar_id]) for r in found]
        assert_consistent(client, data)
