"""Pushes that wait at the same time share one transaction, and each gets its own answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa

from memory_format import BudgetError, ConflictError, Record, StorageError, decode_batch, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.index.base import Writing
from memory_service.store.pure.query import Query
from memory_service.store.segments import files
from memory_service.testing import expect_loaded_state
from tests.memory_service import disk
from tests.memory_service.helpers import make_exemplar, sql_of, wait_until

PUSHES = 16


@pytest.fixture
def buffer(data: Path) -> Iterator[Buffer]:
    with Store(data) as store:
        made, _ = store.create_buffer("b", budget_bytes=20_000, eviction="reject")
        yield made


def batch(number: int, count: int = 2, **fields: Any) -> list[Record]:
    return [make_exemplar(number, i, seed=number * 100 + i, **fields) for i in range(count)]


@contextmanager
def transactions(buffer: Buffer) -> Iterator[list[str]]:
    """Those that write, as they are committed."""
    found: list[str] = []

    def note(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("exemplar_memory_writes"):
            found.append("commit")

    sa.event.listen(sql_of(buffer)._engine, "commit", note)
    try:
        yield found
    finally:
        sa.event.remove(sql_of(buffer)._engine, "commit", note)


def push_together(buffer: Buffer, batches: list[list[Record]], keys: list[str | None] | None = None) -> list[Any]:
    """Pushes that all wait before the first of them is taken up; each's answer or error."""

    def push(number: int) -> Any:
        try:
            return buffer.push(encode_batch(batches[number]), idempotency_key=keys[number] if keys else None)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(batches)) as pool:
        # As a change under way would: nobody gets the lock until all have come, in their order.
        with buffer.turns.lock:
            futures = []
            for number in range(len(batches)):
                futures.append(pool.submit(push, number))
                wait_until(lambda: len(buffer._queue._waiting) == len(futures))
        return [future.result(30) for future in futures]


def stored(buffer: Buffer) -> list[Record]:
    return decode_batch(bytes(buffer.query_encoded(Query(limit=1000))[0]))


def test_pushes_that_wait_share_one_transaction(buffer: Buffer, data: Path) -> None:
    batches = [batch(number) for number in range(PUSHES)]
    with transactions(buffer) as commits, mock.patch.object(files, "sync", wraps=files.sync) as sync:
        answers = [json.loads(answer.document) for answer in push_together(buffer, batches)]
    assert len(commits) == 1
    # The segment, and before it is made the count of changes.
    assert sync.call_count == 2
    assert [answer["version"] for answer in answers] == list(range(1, PUSHES + 1))
    assert [answer["exemplar_ids"] for answer in answers] == [[2 * n + 1, 2 * n + 2] for n in range(PUSHES)]
    used = 0
    for answer, records in zip(answers, batches, strict=True):
        used += sum(record.charge for record in records)
        assert (answer["kept"], answer["bytes_used"]) == (2, used)
    assert [record.body for record in stored(buffer)] == [record.body for records in batches for record in records]
    expect_loaded_state(buffer)
    assert disk.read_store(data)["b"].row["version"] == PUSHES


def test_one_that_does_not_fit_fails_alone(buffer: Buffer) -> None:
    batches = [batch(number) for number in range(PUSHES)]
    batches[3] = batch(3, pad=19_000)
    batches[8] = batch(8, pad=30_000)
    with transactions(buffer) as commits:
        answers = push_together(buffer, batches)
    assert len(commits) == 1
    refused = [number for number, answer in enumerate(answers) if isinstance(answer, BudgetError)]
    assert refused == [3, 8]
    assert [answers[number].code for number in refused] == ["budget_exceeded", "record_exceeds_budget"]
    kept = [number for number in range(PUSHES) if number not in refused]
    assert sorted({record.class_id for record in stored(buffer)}) == kept
    versions = [json.loads(answers[number].document)["version"] for number in kept]
    assert versions == list(range(1, len(kept) + 1))


def test_one_that_does_not_fit_the_disk_fails_alone(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=200_000, disk_limit_bytes=200_000, eviction="reject")
        buffer.push(encode_batch(batch(90, 8, pad=10_000)))
        batches = [batch(number) for number in range(4)]
        batches[2] = batch(2, 11, pad=10_000)
        answers = push_together(buffer, batches)
        assert [isinstance(answer, BudgetError) for answer in answers] == [False, False, True, False]
        assert answers[2].code == "disk_limit_exceeded"
        assert {record.class_id for record in stored(buffer)} == {0, 1, 3, 90}
        expect_loaded_state(buffer)


def test_one_idempotency_key_in_a_group_happens_once(buffer: Buffer) -> None:
    batches = [batch(1), batch(1), batch(2), batch(3)]
    answers = push_together(buffer, batches, ["a", "a", "b", "a"])
    assert [getattr(answer, "replayed", None) for answer in answers] == [False, True, False, None]
    assert answers[0].document == answers[1].document
    assert isinstance(answers[3], ConflictError)
    assert len(stored(buffer)) == 4


def test_a_group_evicts_as_its_pushes_one_by_one_would(tmp_path: Path) -> None:
    batches = [batch(number % 3, 3, pad=100 * number) for number in range(12)]
    with Store(tmp_path / "together") as together, Store(tmp_path / "alone") as alone:
        first, _ = together.create_buffer("b", budget_bytes=5000)
        second, _ = alone.create_buffer("b", budget_bytes=5000)
        documents = [answer.document for answer in push_together(first, batches)]
        assert documents == [second.push(encode_batch(records)).document for records in batches]
        assert stored(first) == stored(second)
        assert any(json.loads(document)["evicted"] for document in documents)
        expect_loaded_state(first)


@pytest.mark.parametrize("committed", [False, True])
def test_a_group_that_cannot_be_written_fails_whole_and_happens_at_most_once(buffer: Buffer, committed: bool) -> None:
    writing = sql_of(buffer).writing

    @contextmanager
    def failing(**options: Any) -> Iterator[Writing]:
        with writing(**options) as transaction:
            yield transaction
            if not committed:
                raise StorageError("the index cannot be used: disk I/O error")
        raise StorageError("the index cannot be used: disk I/O error")

    batches = [batch(number) for number in range(4)]
    with mock.patch.object(buffer._index, "writing", failing):
        answers = push_together(buffer, batches)
    assert all(isinstance(answer, StorageError) for answer in answers)
    assert [record.class_id for record in stored(buffer)] == ([0, 0, 1, 1, 2, 2, 3, 3] if committed else [])
    expect_loaded_state(buffer)
    buffer.push(encode_batch(batch(9)))
    expect_loaded_state(buffer)


def test_many_threads_at_once(buffer: Buffer) -> None:
    """No order is given here: whatever groups come about, every answer is true."""
    answers: dict[int, Any] = {}

    def client(number: int) -> None:
        for count in range(3):
            place = number * 10 + count
            answers[place] = json.loads(buffer.push(encode_batch(batch(place, 1)), idempotency_key=str(place)).document)

    with transactions(buffer) as commits:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(commits) <= 24
    by_id = {record.exemplar_id: record.class_id for record in stored(buffer)}
    assert by_id == {answer["exemplar_ids"][0]: place for place, answer in answers.items()}
    assert sorted(answer["version"] for answer in answers.values()) == list(range(1, 25))
