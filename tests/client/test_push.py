"""Pushes: their keys, dry runs, a service without room on disk, a busy one."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import Buffer, MemoryClient, ProtocolError, PushResult, Retries, ServiceTimeoutError
from client._push import push_batches
from memory_format import MEDIA_TYPE, BudgetError, BusyError, ConflictError, Record
from memory_format.api.answers import PushResponse
from tests.client.samples import make, make_many
from tests.client.script import LOST, PUSHED, Script, client_of, problem
from tests.conftest import Service


def test_a_push_is_tried_again_with_its_key() -> None:
    script = Script(LOST[1], problem(503, "storage_failed"), httpx.Response(200, json=PUSHED))
    with client_of(script) as memory:
        Buffer(memory, "b").push(make_many(1))
    assert len(script.asked) == 3
    assert len({request.headers["Idempotency-Key"] for request in script.asked}) == 1
    assert len({request.content for request in script.asked}) == 1
    assert {request.headers["Content-Type"] for request in script.asked} == {MEDIA_TYPE}


def test_every_batch_has_a_key_of_its_own() -> None:
    script = Script(httpx.Response(200, json=PUSHED))
    with client_of(script) as memory:
        Buffer(memory, "b").push(make_many(3), max_batch_records=1)
    keys = [request.headers["Idempotency-Key"] for request in script.asked]
    assert len(set(keys)) == 3
    assert len({key.rsplit("-", 1)[0] for key in keys}) == 1


def test_a_push_that_fails_carries_its_key() -> None:
    script = Script(httpx.Response(200, json=PUSHED), httpx.ReadTimeout("late"))
    with client_of(script) as memory, pytest.raises(ServiceTimeoutError) as caught:
        Buffer(memory, "b").push(make_many(2), max_batch_records=1)
    assert caught.value.details["records_acknowledged"] == 1
    assert script.asked[1].headers["Idempotency-Key"] == caught.value.details["idempotency_key"] + "-1"


def test_a_push_answer_that_lacks_something_is_a_protocol_error() -> None:
    answers: list[Any] = [{}, {**PUSHED, "exemplar_ids": None}, [], {**PUSHED, "kept": "many"}]
    for answer in answers:
        with client_of(Script(httpx.Response(200, json=answer))) as memory, pytest.raises(ProtocolError):
            Buffer(memory, "b").push(make_many(1))


def test_a_dry_run_says_what_a_push_would(buffer: Buffer) -> None:
    buffer.push(make_many(5))
    before = buffer.info()
    told = buffer.push(make_many(7, first=5), dry_run=True)
    assert buffer.info() == before
    assert told.kept == 7
    assert told == buffer.push(make_many(7, first=5))


def test_a_dry_run_names_what_would_go(memory: MemoryClient) -> None:
    records = make_many(20)
    held = sum(record.charge for record in records[:10])
    buffer = memory.create_buffer("would-go", budget_bytes=held, eviction="fifo")
    ids = buffer.push(records[:10]).exemplar_ids
    told = buffer.push(records[10:13], dry_run=True)
    assert told.evicted
    assert set(told.evicted) <= set(ids)
    assert [item.exemplar_id for item in buffer.query()] == list(ids)
    assert told == buffer.push(records[10:13])
    with pytest.raises(BudgetError) as caught:
        buffer.push([make(0, patches=np.zeros((1, 8, 8, 3), np.uint8), user_json={"x": "y" * held})], dry_run=True)
    assert caught.value.code == "record_exceeds_budget"


def test_a_dry_run_is_of_one_batch(buffer: Buffer) -> None:
    taken = []

    def generate() -> Any:
        for record in make_many(9):
            taken.append(record)
            yield record

    with pytest.raises(ValueError, match="one batch"):
        buffer.push(generate(), dry_run=True, max_batch_records=2)
    assert len(taken) == 5, "the second batch ends at the first record of the third"
    assert buffer.push([], dry_run=True) == PushResult((), 0, 0, (), 0, 1_000_000, 0, 0)
    assert buffer.info().version == 0


def test_a_dry_run_of_what_was_pushed_gets_the_answer_of_then(buffer: Buffer) -> None:
    pushed = buffer.push(make_many(3), idempotency_key="once")
    assert buffer.push(make_many(3), idempotency_key="once", dry_run=True) == pushed


STORED = PushResponse((), 0, 0, (), 0, 0, 0)


class Shelf:
    """Takes batches under keys as a service does, so many records at once, and fewer where told to."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.answers: dict[str, tuple[list[int], PushResponse]] = {}
        self.stored: list[int] = []
        self.sent: list[int] = []
        self.fails_after: int | None = None

    def send(self, batch: Any, key: str) -> PushResponse:
        numbers = [record.rank for record in batch]
        self.sent.append(len(numbers))
        if key in self.answers:
            if self.answers[key][0] != numbers:
                raise ConflictError("another body", code="idempotency_key_reused")
            return self.answers[key][1]
        if self.fails_after == len(self.answers):
            raise ServiceTimeoutError("gone")
        if len(numbers) > self.room:
            raise BudgetError("no room", code="disk_limit_exceeded")
        self.stored += numbers
        answer = replace(STORED, exemplar_ids=tuple(numbers), kept=len(numbers))
        self.answers[key] = (numbers, answer)
        return answer


RECORDS = make_many(40)


@given(
    count=st.integers(1, 40),
    limit=st.integers(1, 40),
    rooms=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    fails_after=st.none() | st.integers(0, 20),
)
def test_however_it_is_cut_and_repeated_it_is_stored_once(
    count: int, limit: int, rooms: list[int], fails_after: int | None
) -> None:
    """Each try finds other room on disk; the first may break off anywhere."""
    batches = [RECORDS[first : min(first + limit, count)] for first in range(0, count, limit)]
    shelf = Shelf(rooms[0])
    shelf.fails_after = fails_after
    answers = []
    try:
        answers = push_batches(batches, "key", shelf.send)
    except ServiceTimeoutError as error:
        broken_off = error.details
        assert broken_off == {
            "records_acknowledged": len(shelf.stored),
            "idempotency_key": "key",
            "exemplar_ids": tuple(shelf.stored),
            "evicted": (),
        }
    shelf.fails_after = None
    for room in rooms[1:]:
        shelf.room = room
        answers = push_batches(batches, "key", shelf.send)
    assert shelf.stored == list(range(count))
    assert [item for answer in answers for item in answer.exemplar_ids] == list(range(count))
    assert all(len(key) <= len("key-39.39") for key in shelf.answers)


def test_pieces_have_keys_of_their_own_and_the_first_has_the_batchs() -> None:
    shelf = Shelf(1)
    push_batches([RECORDS[:4], RECORDS[4:7]], "key", shelf.send)
    assert list(shelf.answers) == ["key-0", "key-0.1", "key-0.2", "key-0.3", "key-1", "key-1.1", "key-1.2"]
    assert shelf.sent == [4, 2, 1, 1, 2, 1, 1, 3, 1, 2, 1, 1]


def test_a_record_that_finds_no_room_alone_is_an_error() -> None:
    script = Script(httpx.Response(200, json=PUSHED), problem(507, "disk_limit_exceeded"))
    with client_of(script) as memory, pytest.raises(BudgetError) as caught:
        Buffer(memory, "b").push(make_many(9), max_batch_records=1)
    assert caught.value.code == "disk_limit_exceeded"
    assert caught.value.details["records_acknowledged"] == 1
    assert len(script.asked) == 2

    script = Script(problem(507, "disk_limit_exceeded"))
    with client_of(script) as memory, pytest.raises(BudgetError):
        Buffer(memory, "b").push(make_many(8))
    assert len(script.asked) == 4, "8, 4, 2, 1"


def test_what_does_not_fit_the_budget_is_not_cut() -> None:
    script = Script(problem(507, "budget_exceeded"))
    with client_of(script) as memory, pytest.raises(BudgetError):
        Buffer(memory, "b").push(make_many(8))
    assert len(script.asked) == 1


def large(number: int) -> Record:
    rng = np.random.default_rng(number)
    patches = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return make(number, patches=patches, keep_mask=np.array([[True, True]]))


def test_a_batch_without_room_on_disk_is_cut_and_stored_once(memory: MemoryClient) -> None:
    """What a batch replaces is on disk until the batch is: a whole budget of records does not go in at once."""
    old, new = [large(number) for number in range(40)], [large(number) for number in range(40, 80)]
    budget = max(sum(record.charge for record in records) for records in (old, new))
    buffer = memory.create_buffer(
        "no-room", budget_bytes=budget, disk_limit_bytes=budget * 3 // 2, eviction="fifo", description="tight"
    )
    first = buffer.push(old, idempotency_key="old")
    assert (first.kept, first.batches) == (40, 1)
    result = buffer.push(new, idempotency_key="new")
    assert result.batches > 1, "otherwise this tests nothing"
    assert (result.kept, result.rejected) == (40, 0)
    assert result.evicted == first.exemplar_ids
    assert [record.rank for record in buffer.records()] == list(range(40, 80))
    assert buffer.stats().disk_bytes <= buffer.info().disk_limit_bytes

    # With room for all of it at once, the same push still is the one that was cut.
    buffer.configure(disk_limit_bytes=10 * budget)
    before = buffer.info()
    assert buffer.push(new, idempotency_key="new") == result
    assert buffer.info() == before


def test_a_busy_service_is_one_that_says_so(
    start_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_MAX_PENDING_BYTES", "100")
    service = start_service()
    url = httpx.URL(service.url)
    head = f"POST /v1/buffers/busy/exemplars HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MEDIA_TYPE}\r\n"
    with (
        MemoryClient(service.url, retries=Retries(tries=1)) as impatient,
        MemoryClient(service.url, retries=Retries(tries=10)) as patient,
    ):
        buffer = impatient.create_buffer("busy", budget_bytes=100_000)
        assert url.port is not None
        with socket.create_connection((url.host, url.port)) as slow:
            slow.sendall(head.encode() + b"Content-Length: 1000\r\n\r\nAR")
            # The service has it when it has answered to somebody who came later, and a moment more.
            impatient.info()
            time.sleep(0.3)
            with pytest.raises(BusyError) as caught:
                buffer.push(make_many(1))
            assert caught.value.code == "too_busy"
            assert caught.value.details["retry_after"] > 0
            assert caught.value.details["records_acknowledged"] == 0
            buffer.info()
        assert patient.buffer("busy").push(make_many(2)).kept == 2


def test_the_body_of_a_repeated_piece_is_the_same() -> None:
    script = Script(problem(507, "disk_limit_exceeded"), LOST[1], httpx.Response(200, json=PUSHED))
    records = [replace(record, exemplar_id=0) for record in make_many(2)]
    with client_of(script) as memory:
        assert Buffer(memory, "b").push(records).batches == 2
    whole, lost, again, second = script.asked
    assert lost.content == again.content != whole.content
    keys = [request.headers["Idempotency-Key"] for request in (whole, lost, again, second)]
    assert keys == [keys[0]] * 3 + [keys[0] + ".1"]
