"""Opening a store, and what happens when the disk fails."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from memory_format import ConflictError, StorageError, encode_batch
from memory_service.store import Store, compaction
from memory_service.store.index import Index
from memory_service.store.query import Query
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


def test_a_store_is_opened_once(data: Path) -> None:
    with Store(data):
        with pytest.raises(StorageError, match=f"pid {os.getpid()}") as caught:
            Store(data)
        assert caught.value.code == "store_locked"
    Store(data).close()


def test_what_a_crash_left_behind_is_swept(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar()])
        before = contents(all_records(client))
    segments = data / "segments"
    orphans = [segments / ("0" * 32 + ".zarr.zip"), segments / ("1" * 32 + ".tmp")]
    for orphan in orphans:
        orphan.write_bytes(b"half a file")
    (segments / "notes.txt").write_text("mine")
    with caplog.at_level(logging.WARNING), running(data) as client:
        assert contents(all_records(client)) == before
    assert not any(orphan.exists() for orphan in orphans)
    assert (segments / "notes.txt").read_text() == "mine"
    assert "removed 2 files" in caplog.text
    assert "notes.txt" in caplog.text


def test_counters_that_differ_from_the_rows_are_set_right(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, rank) for rank in range(3)])
        stats = client.get("/v1/buffers/b/stats").json()
    with running(data) as client:
        assert not caplog.records
    connection = sqlite3.connect(data / "index.sqlite")
    connection.execute("UPDATE buffers SET bytes_used = 5, num_records = 17, next_exemplar_id = 2")
    connection.commit()
    connection.close()
    with caplog.at_level(logging.WARNING), running(data) as client:
        assert "counters of buffer b" in caplog.text
        assert_consistent(client, data)
        assert client.get("/v1/buffers/b/stats").json()["bytes_used"] == stats["bytes_used"]
        assert push(client, [make_exemplar(5)])["exemplar_ids"] == [4]


def test_a_missing_segment_is_refused_at_the_door(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar()])
    (segment,) = (data / "segments").iterdir()
    segment.unlink()
    with pytest.raises(StorageError, match="missing or cut short") as caught:
        Store(data)
    assert caught.value.code == "storage_failed"
    # It let go of the lock.
    with pytest.raises(StorageError, match="missing or cut short"):
        Store(data)


def test_a_flipped_bit_is_seen_and_named(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, 0), make_exemplar(0, 1)])
    (segment,) = (data / "segments").iterdir()
    content = bytearray(segment.read_bytes())
    place = content.index(make_exemplar(0, 1).payload)
    content[place + 10] ^= 1
    segment.write_bytes(content)
    with running(data) as client:
        assert client.get("/v1/buffers/b/exemplars/1").status_code == 200
        assert_problem(client.get("/v1/buffers/b/exemplars/2"), "corrupt_record", segment=segment.name)
        assert_problem(client.post("/v1/buffers/b/sample", json={"batch_size": 64}), "corrupt_record")
        # Lists do not touch the bodies, and the good part can still be drawn from.
        assert len(client.get("/v1/buffers/b/exemplars").json()["exemplars"]) == 2


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_push_that_the_disk_refuses_changes_nothing(
    client: httpx.Client, data: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    put_buffer(client)
    push(client, [make_exemplar(0, 0)])
    before = whole_state(data)
    real = getattr(os, call)

    def fail(*arguments: Any, **options: Any) -> Any:
        if call == "open" and not str(arguments[0]).endswith(".tmp"):
            return real(*arguments, **options)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"memory_service.store.segments.os.{call}", fail)
        response = client.post("/v1/buffers/b/exemplars", content=encode_batch([make_exemplar(0, 1)]), headers=ARROW)
    document = assert_problem(response, "storage_failed", errno=number)
    assert ("disk is full" in document["detail"]) == (number == errno.ENOSPC)
    assert whole_state(data) == before
    assert push(client, [make_exemplar(0, 1)])["exemplar_ids"] == [2]
    assert_consistent(client, data)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_that_fails(client: httpx.Client, data: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Reported as failed before it took place, or after: the files follow what the database says."""
    put_buffer(client)
    push(client, [make_exemplar(0, 0)])
    before = whole_state(data)
    real = Index.write

    @contextmanager
    def failing_write(self: Index) -> Iterator[sa.Connection]:
        with real(self) as connection:
            yield connection
            if moment == "before":
                raise StorageError("disk I/O error")
        raise StorageError("disk I/O error")

    url, body = "/v1/buffers/b/exemplars", encode_batch([make_exemplar(0, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(Index, "write", failing_write)
        response = client.post(url, content=body, headers={**ARROW, "Idempotency-Key": "k"})
    assert "disk I/O error" in assert_problem(response, "storage_failed")["detail"]
    if moment == "before":
        assert whole_state(data) == before
    again = client.post(url, content=body, headers={**ARROW, "Idempotency-Key": "k"})
    assert ("Idempotency-Replayed" in again.headers) == (moment == "after")
    assert again.json()["exemplar_ids"] == [2]
    assert assert_consistent(client, data)["num_records"] == 2
    assert push(client, [make_exemplar(0, 2)])["exemplar_ids"] == [3]
    assert_consistent(client, data)


def test_compaction_moves_and_loses_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SLACK_BYTES", 30_000)
    with running(data) as client:
        put_buffer(client, 60 * make_exemplar().charge)
        for round_ in range(30):
            push(
                client,
                [make_exemplar(c, 30 - round_, seed=c * 100 + round_, learner_id=f"l{c}") for c in range(3)],
            )
            stats = assert_consistent(client, data)
            assert stats["dead_bytes"] <= compaction.dead_limit(stats["bytes_used"])
        assert stats["num_records"] == 60
        before = all_records(client)
    with running(data) as client:
        assert all_records(client) == before


def test_readers_of_a_rewritten_segment_read_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns that a reader took are old by the time it opens the file: it looks again, and finds the new
    place."""
    monkeypatch.setattr(compaction, "SLACK_BYTES", 30_000)
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        buffer.push(encode_batch([make_exemplar(0, 0)]))
        old = buffer.contents.columns
        for rank in range(1, 6):
            buffer.push(encode_batch([make_exemplar(0, rank)]))
        assert len(buffer.contents.states) < 6
        real = type(buffer.contents).read_records
        calls = []

        def read_old(self: Any, columns: Any, positions: Any) -> Any:
            calls.append(columns)
            return real(self, old if len(calls) == 1 else columns, positions)

        monkeypatch.setattr(type(buffer.contents), "read_records", read_old)
        assert buffer.get(1).body == make_exemplar(0, 0).body
        assert len(calls) == 2
        calls.clear()
        assert len(buffer.query_records(Query(limit=1))[0]) == 1
        assert len(calls) == 2


def test_a_damaged_record_does_not_stop_pushes(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compaction, "SLACK_BYTES", 30_000)
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, 0)])
        (segment,) = (data / "segments").iterdir()
        content = bytearray(segment.read_bytes())
        content[content.index(make_exemplar(0, 0).payload) + 12] ^= 1
        segment.write_bytes(content)
        for rank in range(1, 12):
            push(client, [make_exemplar(0, rank)])
        assert segment.exists()
        assert caplog.text.count("compaction of buffer b failed") == 1
        stats = client.get("/v1/buffers/b/stats").json()
        assert stats["num_records"] == 12
        assert stats["segments"] < 8


def test_a_buffer_deleted_under_a_reader_is_unknown(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        buffer.push(encode_batch([make_exemplar()]))
        store.delete_buffer("b")
        for use in (
            lambda: buffer.get(1),
            lambda: buffer.push(encode_batch([])),
            lambda: buffer.query(Query()),
        ):
            with pytest.raises(Exception, match="there is no buffer 'b'") as caught:
                use()
            assert caught.value.code == "unknown_buffer"  # type: ignore[attr-defined]


def test_the_database_itself_refuses_a_buffer_over_its_budget(data: Path) -> None:
    with running(data) as client:
        put_buffer(client, 1000)
        connection = sqlite3.connect(data / "index.sqlite")
        with pytest.raises(sqlite3.IntegrityError, match="within_budget"):
            connection.execute("UPDATE buffers SET bytes_used = 1001")
        connection.close()


def test_names_are_taken_once_by_many_threads(data: Path) -> None:
    with Store(data) as store, ThreadPoolExecutor(8) as pool:

        def create(number: int) -> str:
            try:
                return str(store.create_buffer("b", budget_bytes=1000 + number % 2)[1])
            except ConflictError:
                return "conflict"

        assert sorted(pool.map(create, range(16))) == ["False"] * 7 + ["True"] + ["conflict"] * 8
