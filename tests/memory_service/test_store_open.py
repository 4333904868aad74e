"""Opening a store, and what happens when the disk fails."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import ConflictError, StorageError, decode_batch, encode_batch
from memory_service.store import Store
from memory_service.store.contents import Contents
from memory_service.store.index.base import Writing
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.pure.query import Query
from tests.memory_service import disk
from tests.memory_service.conftest import crashing, running
from tests.memory_service.helpers import (
    ARROW,
    all_records,
    assert_consistent,
    assert_problem,
    contents,
    make_exemplar,
    push,
    put_buffer,
    reading,
    stats_of,
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
    orphans = [segments / ("0" * 32 + ".zarr.zip"), segments / ("1" * 32 + ".open")]
    for orphan in orphans:
        disk.leave_behind(data, orphan.name, b"half a file")
    with reading(data) as index:
        # One was about to be made, the other to go.
        index.execute("UPDATE intents SET leaving = 1 WHERE stem = ?", ["1" * 32])
        index.commit()
    (segments / "notes.txt").write_text("mine")
    with caplog.at_level(logging.WARNING), running(data) as client:
        assert contents(all_records(client)) == before
    assert not any(orphan.exists() for orphan in orphans)
    assert (segments / "notes.txt").read_text() == "mine"
    assert "removed 2 files" in caplog.text
    assert "notes.txt" in caplog.text


@pytest.mark.parametrize("sealed", [False, True], ids=["appended", "sealed"])
def test_what_was_written_and_not_committed_does_not_count(data: Path, sealed: bool) -> None:
    """A crash between writing and committing: bytes behind the end of an open segment, or a frame and the other
    name."""
    with crashing(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, 0)])
        before = whole_state(data), contents(all_records(client))
    (segment,) = (data / "segments").iterdir()
    assert segment.suffix == ".open"
    segment.write_bytes(segment.read_bytes() + b"half a record")
    if sealed:
        segment.rename(segment.with_suffix(".zarr.zip"))
    with crashing(data) as client:
        assert (whole_state(data), contents(all_records(client))) == before
        assert push(client, [make_exemplar(0, 1)])["exemplar_ids"] == [2]
        assert_consistent(client, data)


def test_a_segment_stays_open_over_a_crash_and_goes_on(data: Path) -> None:
    with crashing(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, 0, learner_id="ann")])
    with crashing(data) as client:
        push(client, [make_exemplar(0, 1, learner_id="bob"), make_exemplar(0, 2, learner_id="ann")])
        assert assert_consistent(client, data)["segments"] == 1
    with running(data) as client:
        assert [record.learner_id for record in all_records(client)] == ["ann", "bob", "ann"]
        assert assert_consistent(client, data)["open_segments"] == 1
    with running(data) as client:
        assert [record.learner_id for record in all_records(client)] == ["ann", "bob", "ann"]
        assert assert_consistent(client, data)["open_segments"] == 0


def test_counters_that_differ_from_the_records_are_refused(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, rank) for rank in range(3)])
    with running(data):
        assert not caplog.records
    with reading(data) as index:
        index.execute("UPDATE buffers SET bytes_used = 5, num_records = 17")
        index.commit()
    with pytest.raises(StorageError, match=r"verify.*repair") as caught:
        Store(data)
    assert caught.value.code == "corrupt_record"


@pytest.mark.parametrize("damage", ["gone", "cut", "longer"])
def test_a_missing_segment_is_refused_at_the_door(data: Path, damage: str) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar()])
    (segment,) = (data / "segments").iterdir()
    content = segment.read_bytes()
    segment.unlink()
    if damage != "gone":
        segment.write_bytes(content[:-1] if damage == "cut" else content + b"x")
    with pytest.raises(StorageError, match=r"missing or cut short.*verify.*repair") as caught:
        Store(data)
    assert caught.value.code == "storage_failed"
    assert caught.value.details["segments"] == [segment.name.split(".")[0]]
    # It let go of the lock, and left what is there alone.
    with pytest.raises(StorageError, match="missing or cut short"):
        Store(data)
    assert segment.exists() == (damage != "gone")


def test_an_open_segment_that_was_cut_short_is_refused_too(data: Path) -> None:
    with crashing(data) as client:
        put_buffer(client)
        push(client, [make_exemplar()])
    (segment,) = (data / "segments").iterdir()
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"missing or cut short.*verify.*repair"):
        Store(data)


def test_a_sealed_segment_whose_frame_is_damaged_is_refused(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar()])
    (segment,) = (data / "segments").iterdir()
    content = bytearray(segment.read_bytes())
    content[content.index(b"exemplar_id/c/0") + 20] ^= 1
    segment.write_bytes(content)
    with pytest.raises(StorageError, match=r"verify|repair"):
        Store(data)


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_a_flipped_bit_is_seen_and_named(data: Path, sealed: bool) -> None:
    with running(data) if sealed else crashing(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, 0), make_exemplar(0, 1)])
    (segment,) = (data / "segments").iterdir()
    content = bytearray(segment.read_bytes())
    place = content.index(make_exemplar(0, 1).payload)
    content[place + 10] ^= 1
    segment.write_bytes(content)
    with running(data) as client:
        assert client.get("/v1/buffers/b/exemplars/1").status_code == 200
        stem = segment.name.split(".")[0]
        document = assert_problem(client.get("/v1/buffers/b/exemplars/2"), "corrupt_record", segment=stem)
        assert "memory-service repair" in document["detail"]
        assert_problem(client.post("/v1/buffers/b/sample", json={"batch_size": 64}), "corrupt_record")
        # Lists do not touch the bodies, and the good part can still be drawn from.
        assert len(client.get("/v1/buffers/b/exemplars").json()["exemplars"]) == 2


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_push_that_the_disk_refuses_changes_nothing(
    client: httpx.Client, data: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    put_buffer(client)
    push(client, [make_exemplar(0, 0)])
    before = whole_state(data)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"memory_service.store.segments.files.os.{call}", fail)
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
    real = SqliteIndex.writing

    @contextmanager
    def failing(self: SqliteIndex, **options: Any) -> Iterator[Writing]:
        with real(self, **options) as transaction:
            yield transaction
            if moment == "before":
                raise StorageError("disk I/O error")
        raise StorageError("disk I/O error")

    url, body = "/v1/buffers/b/exemplars", encode_batch([make_exemplar(0, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(SqliteIndex, "writing", failing)
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


def test_compaction_moves_and_loses_nothing(data: Path) -> None:
    with running(data) as client:
        put_buffer(client, 60 * make_exemplar(pad=2000).charge)
        stems: set[str] = set()
        for round_ in range(80):
            batch = [
                make_exemplar(c, 80 - round_, seed=c * 100 + round_, learner_id=f"l{c}", pad=2000) for c in range(6)
            ]
            push(client, batch)
            stats = stats_of(client)
            assert stats["disk_bytes"] <= stats["disk_limit_bytes"]
            stems |= {path.stem for path in (data / "segments").iterdir()}
            if round_ % 8 == 0:
                assert_consistent(client, data)
        stats = assert_consistent(client, data)
        # The last ten rounds are what is best of each class.
        assert {record.rank for record in all_records(client)} == set(range(1, 11))
        assert stats["num_records"] == 60
        assert len(stems) > stats["segments"]
        before = all_records(client)
    with running(data) as client:
        assert all_records(client) == before


def test_readers_of_a_rewritten_segment_read_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that a reader took are old by the time it opens the file: it looks again, and finds the new
    place."""
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        buffer.push(encode_batch([make_exemplar(0, 0)]))
        real = Contents.read_bodies
        calls = []

        def read_late(self: Contents, taken: Any, *into: Any) -> Any:
            calls.append(taken)
            if len(calls) == 1:
                # Reads the bodies too.
                (state,) = buffer.state.segments.values()
                buffer._commits.compactor.rewrite(state)
            return real(self, taken, *into)

        monkeypatch.setattr(Contents, "read_bodies", read_late)
        assert buffer.get(1).body == make_exemplar(0, 0).body
        assert len(calls) == 3
        calls.clear()
        (record,) = decode_batch(bytes(buffer.query_encoded(Query(limit=1))[0]))
        assert record.body == make_exemplar(0, 0).body
        assert len(calls) == 3


def test_a_damaged_record_does_not_stop_pushes(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The segment that holds it stays as it is; others are rewritten."""
    first = make_exemplar(0, 0, score=1000.0, pad=2000)
    with running(data) as client:
        budget = 60 * first.charge
        put_buffer(client, budget, eviction="lowest_score", disk_limit_bytes=budget + 110_000)
        push(client, [first])
        (segment,) = (data / "segments").iterdir()
        content = bytearray(segment.read_bytes())
        content[content.index(first.payload) + 12] ^= 1
        segment.write_bytes(content)
        for count in range(1, 200):
            # In each of the first segments one that stays, so that they have to be rewritten.
            score = 1000.0 if count < 90 and count % 15 == 0 else float(count)
            push(client, [make_exemplar(0, seed=count, score=score, pad=2000)])
        assert segment.exists()
        assert caplog.text.count("is not rewritten") == 1
        stats = stats_of(client)
        assert stats["num_records"] == 60
        assert stats["disk_bytes"] <= stats["disk_limit_bytes"]
        assert_problem(client.get("/v1/buffers/b/exemplars/1"), "corrupt_record")


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
        with reading(data) as index, pytest.raises(sqlite3.IntegrityError, match="within_budget"):
            index.execute("UPDATE buffers SET bytes_used = 1001")


def test_names_are_taken_once_by_many_threads(data: Path) -> None:
    with Store(data) as store, ThreadPoolExecutor(8) as pool:

        def create(number: int) -> str:
            try:
                return str(store.create_buffer("b", budget_bytes=1000 + number % 2)[1])
            except ConflictError:
                return "conflict"

        assert sorted(pool.map(create, range(16))) == ["False"] * 7 + ["True"] + ["conflict"] * 8


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_store_is_for_its_owner_only(tmp_path: Path, umask: int) -> None:
    data = tmp_path / "store"
    before = os.umask(umask)
    try:
        with Store(data) as store:
            buffer, _ = store.create_buffer("b", budget_bytes=10**6)
            buffer.push(encode_batch([make_exemplar()]))
            incoming = store.receive(10)
            found = [data, *data.rglob("*")]
            assert {path.name for path in found} > {"index.sqlite", "index.sqlite-wal", "lock", "segments", "incoming"}
            modes = {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()}
            assert modes == {0o600}
            assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o700}
            incoming.discard()
        assert {stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*") if path.is_file()} == {0o600}
    finally:
        os.umask(before)


def test_a_directory_keeps_the_mode_that_it_has(tmp_path: Path) -> None:
    data = tmp_path / "store"
    data.mkdir()
    data.chmod(0o750)
    Store(data).close()
    assert stat.S_IMODE(data.stat().st_mode) == 0o750
