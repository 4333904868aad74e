"""Several replicas over one index and one object store: none of them answers with what another has changed since."""

from __future__ import annotations

import json
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from sqlalchemy import event

from memory_format import (
    MEDIA_TYPE,
    ConflictError,
    NotFoundError,
    StorageError,
    decode_batch,
    encode_batch,
    vocabulary_fingerprint,
)
from memory_format.revise import NewArray
from memory_service.http.app import create_app
from memory_service.settings import Settings
from memory_service.store import Buffer, Store, changes, shared, writer
from memory_service.store.directory import Places
from memory_service.store.index import connecting, holding, news, tables, taking_part
from memory_service.store.index.base import ERASING, NAMES, Reading
from memory_service.store.index.shared import SharedIndex
from memory_service.store.pure.model import Budget, Options
from memory_service.store.pure.news import News
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.selection import Filter
from memory_service.store.segments import appending, bucket, objects
from memory_service.store.segments.bucket import Bucket
from memory_service.store.shared import SharedStore
from memory_service.store.writer import Writer
from memory_service.testing import expect_loaded_state
from memory_service.testing.round_trips import CountingProxy
from tests.memory_service.conftest import URL as LOOPBACK
from tests.memory_service.helpers import make_exemplar
from tests.memory_service.replica_model import insist
from tests.objects import ObjectStore, use
from tests.postgres import PostgresServer

OPTIONS = Options(segment_bytes=3000)


@pytest.fixture
def pair(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SharedStore, SharedStore]]:
    """Two replicas in one process; every segment that is full is put."""
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)
    segments = f"memory://{uuid4().hex}"
    places = Places(postgres.new_schema(), segments, replicas=True)
    with ExitStack() as stack:
        stack.callback(bucket.forget_memory, segments)
        first, second = (
            stack.enter_context(SharedStore(tmp_path / name, OPTIONS, open_ports=places)) for name in ("one", "two")
        )
        yield first, second


def push(buffer: Buffer, seed: int, count: int = 4, key: str | None = None) -> dict[str, object]:
    batch = encode_batch([make_exemplar(i % 3, 100 * seed + i) for i in range(count)])
    answer = buffer.push(batch, idempotency_key=key)
    return {**json.loads(answer.document), "replayed": answer.replayed}


def held(buffer: Buffer, snapshot: str | None = None) -> bytes:
    return bytes(buffer.query_encoded(Query(limit=1000), snapshot=snapshot)[0])


def drawn(buffer: Buffer, step: int) -> bytes:
    return bytes(buffer.sample(SampleRequest(5, seed=1, step=step))[0])


def expect_same(first: Store, second: Store, name: str = "b") -> None:
    one, two = first.buffer(name), second.buffer(name)
    assert held(one) == held(two)
    assert one.state.version == two.state.version
    if one.state.columns.num_records:
        assert [drawn(one, step) for step in range(3)] == [drawn(two, step) for step in range(3)]
    assert one.snapshots() == two.snapshots()
    for snapshot in one.snapshots():
        assert held(one, snapshot.name) == held(two, snapshot.name)
    for buffer in (one, two):
        expect_loaded_state(buffer)


def test_what_one_has_changed_the_other_answers_with(pair: tuple[SharedStore, SharedStore]) -> None:
    first, second = pair
    first.create_buffer("b", budget_bytes=9000, disk_limit_bytes=200_000, eviction="fifo")
    for turn in range(12):
        here, there = pair if turn % 2 else (second, first)
        answer = push(here.buffer("b"), turn, 1 + turn % 5, f"k{turn}")
        assert there.buffer("b").state.version == answer["version"]
        if turn % 4 == 1:
            there.buffer("b").take_snapshot(f"s{turn}")
        if turn % 4 == 3:
            ids = here.buffer("b").state.columns["exemplar_id"].tolist()
            there.buffer("b").update(ids[:2], ranks=[7, 8])
            here.buffer("b").delete(ids[2:3])
        # Whichever of the two is asked again.
        assert push(there.buffer("b"), turn, 1 + turn % 5, f"k{turn}") == {**answer, "replayed": True}
        expect_same(first, second)
    assert first.buffer("b").stats().bytes_used <= 9000
    second.buffer("b").drop_snapshot("s1")
    expect_same(first, second)


def test_buffers_are_made_forked_and_deleted_for_all(pair: tuple[SharedStore, SharedStore]) -> None:
    first, second = pair
    made, _ = first.create_buffer("b", budget_bytes=20_000, disk_limit_bytes=400_000)
    push(made, 0, 20)
    assert [buffer.name for buffer in second.buffers()] == ["b"]
    assert second.create_buffer("b", budget_bytes=20_000, disk_limit_bytes=400_000)[1] is False
    with pytest.raises(ConflictError):
        second.create_buffer("b", budget_bytes=10_000)
    second.fork("b", "f")
    with pytest.raises(ConflictError):
        first.fork("b", "f")
    expect_same(first, second, "f")
    assert [buffer.name for buffer in first.page_of_buffers(5)[0]] == ["b", "f"]
    first.delete_buffer("b")
    for call in (lambda: second.buffer("b"), lambda: second.delete_buffer("b"), lambda: first.buffer("b")):
        with pytest.raises(NotFoundError):
            call()
    assert [buffer.name for buffer in second.buffers()] == ["f"]
    # Another one of that name.
    second.create_buffer("b", budget_bytes=30_000)
    push(first.buffer("b"), 3)
    expect_same(first, second)
    expect_same(first, second, "f")


def test_a_buffer_that_is_made_while_all_are_listed_is_none_that_was_deleted(
    pair: tuple[SharedStore, SharedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = pair
    first.create_buffer("a", budget_bytes=90_000)
    numbers, made = Reading.numbers, list[Buffer]()

    def late(reading: Reading, name: str | None = None) -> dict[str, tuple[int, int]]:
        found = numbers(reading, name)
        if name is None:
            made.append(first.create_buffer("b", budget_bytes=90_000)[0])
        return found

    monkeypatch.setattr(Reading, "numbers", late)
    page, _ = first.page_of_buffers(5)
    assert [buffer.name for buffer in page] == ["a", "b"]
    assert push(made[0], 1)["kept"] == 4
    assert first.buffer("b") is made[0] is page[1]


def test_replicas_of_a_newer_version_are_named_as_such(pair: tuple[SharedStore, SharedStore], tmp_path: Path) -> None:
    """And not as somebody who has the store alone."""
    with pair[0]._index.writing() as transaction:
        transaction.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match=r"schema 9999.*newer version of the service made it"):
        SharedStore(tmp_path / "three", OPTIONS, open_ports=pair[0]._places)


def test_a_push_finds_out_by_itself_that_the_buffer_is_another_one_now(pair: tuple[SharedStore, SharedStore]) -> None:
    first, second = pair
    old, _ = first.create_buffer("b", budget_bytes=20_000)
    with TestClient(create_app(Settings(data=Path("none")), first), LOOPBACK) as client:

        def pushed() -> dict[str, object]:
            body = encode_batch([make_exemplar(0, 1)])
            answer = client.post("/v1/buffers/b/exemplars", content=body, headers={"Content-Type": MEDIA_TYPE})
            said: dict[str, object] = answer.json()
            return said

        second.delete_buffer("b")
        second.create_buffer("b", budget_bytes=30_000)
        assert first.known("b") is old
        assert pushed()["budget_bytes"] == 30_000
        expect_same(first, second)
        second.delete_buffer("b")
        assert pushed()["code"] == "unknown_buffer"
        assert first.known("b") is None


def test_who_lets_go_of_a_shared_segment_last_removes_it(
    pair: tuple[SharedStore, SharedStore], postgres: PostgresServer
) -> None:
    """Also where both do at once: neither takes it for the other's."""
    first, second = pair
    source, _ = first.create_buffer("b", budget_bytes=20_000, disk_limit_bytes=400_000)
    push(source, 0, 20)
    fork = second.fork("b", "f")
    shared_by = [first.buffer("b").state.segments, fork.state.segments]
    stems = set.intersection(*({segment.stem for segment in segments.values()} for segments in shared_by))
    assert stems
    ended: list[str] = []

    def let_go() -> None:
        with second._index.changing(fork.config.id), second._index.writing() as transaction:
            ended.extend(transaction.delete_buffer(fork.config.id))

    other = threading.Thread(target=let_go)
    with first._index.changing(source.config.id), first._index.writing() as transaction:
        ended.extend(transaction.delete_buffer(source.config.id))
        other.start()
        while other.is_alive() and not postgres.waits():
            other.join(0.01)
    other.join()
    assert stems <= {*ended}
    with first._index.reading() as reading:
        assert not reading.known_stems(sorted(stems))


def test_of_an_open_segment_only_what_is_new_is_fetched(
    pair: tuple[SharedStore, SharedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 10**9)
    buffer, _ = first.create_buffer("b", budget_bytes=900_000)
    asked: list[int] = []
    open_bodies = SharedIndex.open_bodies

    def note(index: SharedIndex, stem: str, known: int = 0) -> Sequence[bytes] | None:
        found = open_bodies(index, stem, known)
        asked.append(sum(map(len, found or ())))
        return found

    monkeypatch.setattr(SharedIndex, "open_bodies", note)
    for turn in range(4):
        push(buffer, turn, 1)
        asked.clear()
        one = sum(
            len(record.body) for record in decode_batch(held(second.buffer("b"))) if record.exemplar_id == turn + 1
        )
        assert asked == [one]
    # And the other way round, to what it has not written itself.
    push(second.buffer("b"), 4, 1)
    asked.clear()
    assert held(first.buffer("b")) == held(second.buffer("b"))
    assert len(asked) == 1
    assert asked[0] < 1000
    expect_same(first, second)


def test_a_fork_is_read_on_where_another_replica_has_deleted_its_source(
    pair: tuple[SharedStore, SharedStore],
) -> None:
    first, second = pair
    buffer, _ = first.create_buffer("b", budget_bytes=90_000, disk_limit_bytes=900_000)
    push(buffer, 0, 20)
    first.fork("b", "f")
    before = held(second.buffer("f")), held(second.buffer("b"))
    first.delete_buffer("b")
    assert [buffer.name for buffer in second.buffers()] == ["f"]
    assert held(second.buffer("f")) == before[0]
    expect_same(first, second, "f")


# Who is behind reads what is new


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each change that was made of what another replica has told: whether it has moved records. No buffer is read as
    a whole meanwhile."""
    made: list[bool] = []

    def note(data: bytes) -> News:
        told = News(data)
        made.append(told.is_move)
        return told

    def refuse(of: Writer) -> None:
        raise AssertionError("the whole buffer is read")

    monkeypatch.setattr(writer, "News", note)
    monkeypatch.setattr(Writer, "reload", refuse)
    return made


def take_in(buffer: Buffer, count: int, first: int, key: str | None = None) -> object:
    records = [
        make_exemplar(i % 3, first + i, learner_id=f"learner-{(first + i) % 4}", arrays={"logits": np.zeros(3)})
        for i in range(count)
    ]
    return buffer.push(encode_batch(records), vocabulary=buffer.config.vocabulary, idempotency_key=key)


def ids_of(buffer: Buffer, *places: int) -> list[int]:
    ids = buffer.state.columns.shown["exemplar_id"].tolist()
    return [ids[place] for place in places]


WORDS = ["a", "b", "c"]
KINDS: dict[str, Callable[[Buffer], object]] = {
    "a push": lambda b: take_in(b, 5, 0),
    "one with a key": lambda b: take_in(b, 3, 10, "k"),
    "a snapshot": lambda b: b.take_snapshot("s"),
    "scores": lambda b: b.update(ids_of(b, 0, 2), scores=[0.5, 0.25], ranks=[7, 8]),
    "arrays": lambda b: b.update(ids_of(b, 1, 3), arrays={"logits": NewArray(np.ones((2, 3), np.float32))}),
    "arrays of those": lambda b: b.update(ids_of(b, 1), arrays={"logits": NewArray(np.zeros((1, 3), np.float32))}),
    "a deletion": lambda b: b.delete(ids_of(b, 0, 1)),
    "another snapshot": lambda b: b.take_snapshot("t"),
    "names": lambda b: b.name_classes(["one", "two"]),
    "a vocabulary": lambda b: b.configure(lambda config: replace(config, vocabulary=vocabulary_fingerprint(WORDS))),
    "words": lambda b: b.say_words(WORDS),
    "a description": lambda b: b.configure(lambda config: replace(config, description="of toads")),
    "many": lambda b: take_in(b, 30, 20),
    "the retention": lambda b: b.configure(lambda config: replace(config, retain_snapshots=1)),
    "a smaller budget": lambda b: b.configure(lambda config: replace(config, budget=Budget(10_000))),
    "evictions": lambda b: take_in(b, 12, 60),
    "a seal": lambda b: b.seal(),
    "behind a seal": lambda b: take_in(b, 2, 80),
    "nothing kept": lambda b: take_in(b, 0, 90, "none"),
    "no snapshot": lambda b: b.drop_snapshot("t"),
    "all": lambda b: b.delete(where=Filter()),
    "anew": lambda b: take_in(b, 9, 100),
}


def test_each_kind_of_change_is_followed(
    pair: tuple[SharedStore, SharedStore], followed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair[0].create_buffer("b", budget_bytes=30_000, disk_limit_bytes=400_000, eviction="fifo")
    pair[1].buffer("b")
    for turn, (kind, change) in enumerate(KINDS.items()):
        here, there = pair if turn % 3 else pair[::-1]
        before = len(followed)
        change(here.buffer("b"))
        seen = there.buffer("b")
        expect_same(here, there)
        assert len(followed) > before, kind
        assert seen.state.number == here.buffer("b").state.number
    # In segments that are full and not sealed, and rewritten by either of the two.
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 10**9)
    for turn in range(14):
        here, there = pair if turn % 2 else pair[::-1]
        take_in(here.buffer("b"), 4, 200 + 4 * turn, f"k{turn}")
        buffer = there.buffer("b")
        buffer.delete(ids_of(buffer, *range(turn % 3, buffer.state.columns.num_records, 4)))
        if turn % 4 == 0:
            buffer.take_snapshot(f"s{turn}")
        if turn % 4 == 2:
            with buffer._changing():
                assert buffer._commits.compactor.compact_one(10**6)
        expect_same(here, there)
    assert any(followed)
    # Several at once.
    for turn in range(3):
        take_in(pair[0].buffer("b"), 4, 300 + 4 * turn)
    expect_same(*pair)


def test_who_is_behind_by_a_push_reads_one_row(
    pair: tuple[SharedStore, SharedStore], followed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    first._options = second._options = Options()
    buffer, _ = first.create_buffer("b", budget_bytes=90_000_000)
    buffer.push(encode_batch([make_exemplar(i % 7, i) for i in range(3000)]))
    expect_same(first, second)
    said: list[tuple[str, int]] = []

    def note(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        said.append((statement, cursor.rowcount))

    for behind in (second, first):
        other = first if behind is second else second
        push(other.buffer("b"), 40_000, 1)
        event.listen(sa.Engine, "after_cursor_execute", note)
        try:
            behind.buffer("b")
        finally:
            event.remove(sa.Engine, "after_cursor_execute", note)
        assert [rows for _, rows in said] == [1, 1], said
        said.clear()
    assert followed[-2:] == [False, False]
    assert all(len(row.what) < 2000 for row in news_of(first)[-2:])
    expect_same(first, second)


def news_of(store: Store) -> Sequence[Any]:
    with store._index.reading() as reading:
        assert isinstance(reading, Reading)
        return reading.connection.execute(sa.select(tables.news).order_by(tables.news.c.number)).all()


@pytest.mark.parametrize(
    "how", ["gone", "of a later version", "with more in it", "of another state", "too large", "leased"]
)
def test_where_what_is_new_is_not_told_the_buffer_is_read(
    pair: tuple[SharedStore, SharedStore], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    first, second = pair
    buffer, _ = first.create_buffer("b", budget_bytes=9_000, disk_limit_bytes=400_000, eviction="fifo")
    push(buffer, 0, 8)
    other = second.buffer("b")
    reloads: list[Writer] = []
    reload = Writer.reload

    def note(of: Writer) -> None:
        reloads.append(of)
        reload(of)

    monkeypatch.setattr(Writer, "reload", note)
    # What it pins is nobody else's to know.
    lease = other._exports._lease(None) if how == "leased" else None
    if how == "too large":
        monkeypatch.setattr(news, "MOST_BYTES", 10)
    push(buffer, 1, 8)
    told = news_of(first)[-1]
    with first._index.writing() as transaction:
        if how == "gone":
            transaction.connection.execute(tables.news.delete())
        if how == "of a later version":
            later = zlib.compress(json.dumps({"format": 99}).encode() + b"\0")
            transaction.connection.execute(tables.news.update().values(what=later))
        if how == "with more in it":
            text, _, arrays = zlib.decompress(told.what).partition(b"\0")
            said = json.loads(text)
            said["counts"]["more"] = 1
            more = zlib.compress(b"\0".join([json.dumps(said).encode(), arrays]))
            transaction.connection.execute(tables.news.update().values(what=more))
        if how == "of another state":
            wrong = [row for row in news_of(first) if row.number != told.number][-1].what
            transaction.connection.execute(tables.news.update().values(what=wrong))
    push(first.buffer("b"), 2)
    expect_same(first, second)
    assert other._commits.writer in reloads
    if lease is not None:
        other._exports._end(lease)
        push(first.buffer("b"), 3)
        expect_same(first, second)


def test_what_is_told_is_bounded_and_goes_with_the_buffer(pair: tuple[SharedStore, SharedStore]) -> None:
    first, second = pair
    buffer, _ = first.create_buffer("b", budget_bytes=90_000)
    second.buffer("b")
    for turn in range(news.KEPT + 4):
        push(buffer, turn, 1)
    assert len(news_of(first)) == news.KEPT
    expect_same(first, second)
    second.delete_buffer("b")
    assert not news_of(first)


def test_what_is_told_goes_with_what_is_erased(tmp_path: Path) -> None:
    """By one that has the store alone, which had replicas."""
    with Store(tmp_path) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=90_000)
        push(buffer, 0)
        with store._index.writing() as transaction:
            news.insert(transaction, buffer.config.id, b"headers of all")
        store.erasures.erase(buffer, [2])
        assert not news_of(store)


# What a lost connection, or a replica that has ended, leaves


@pytest.mark.parametrize("committed", [False, True])
def test_a_commit_without_an_answer_is_found_out(
    pair: tuple[SharedStore, SharedStore], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The session ends before the server has committed, or behind it, and another replica goes on meanwhile."""
    first, second = pair
    buffer, _ = first.create_buffer("b", budget_bytes=90_000)
    push(buffer, 0)
    commit = SharedIndex._commit

    def cut(index: SharedIndex, session: Any) -> None:
        if committed:
            commit(index, session)
        pid = session.driver.info.backend_pid
        postgres.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
        monkeypatch.setattr(SharedIndex, "_commit", commit)
        push(second.buffer("b"), 1)
        session.connection.exec_driver_sql("SELECT 1")

    monkeypatch.setattr(SharedIndex, "_commit", cut)
    with pytest.raises(StorageError):
        push(buffer, 2, key="k")
    assert first.buffer("b").stats().num_records == (12 if committed else 8)
    expect_same(first, second)
    assert push(second.buffer("b"), 2, key="k")["replayed"] is committed
    assert first.buffer("b").stats().num_records == 12
    expect_same(first, second)


def test_who_is_silent_amid_a_transaction_loses_it(
    pair: tuple[SharedStore, SharedStore], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a replica that was stopped, or cut off: no timeout of the server's counts between statements of a pipeline."""
    first, second = pair
    buffer, _ = first.create_buffer("b", budget_bytes=90_000)
    push(buffer, 0)
    commit = SharedIndex._commit

    def pause(index: SharedIndex, session: Any) -> None:
        pid = session.driver.info.backend_pid
        its = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"
        # As where the rest waits for room in a buffer.
        session.driver.pgconn.send_flush_request()
        session.driver.pgconn.flush()
        insist(lambda: postgres.execute(f"{its} AND wait_event = 'ClientRead' AND state = 'active'"))
        second.sweep()
        assert postgres.execute(its)
        monkeypatch.setattr(holding, "SILENT_SECONDS", 0)

        def is_ended() -> bool:
            second.sweep()
            return not postgres.execute(its)

        insist(is_ended)
        monkeypatch.setattr(SharedIndex, "_commit", commit)
        push(second.buffer("b"), 1)
        commit(index, session)

    monkeypatch.setattr(SharedIndex, "_commit", pause)
    with pytest.raises(StorageError):
        push(buffer, 2, key="k")
    expect_same(first, second)
    assert push(buffer, 2, key="k")["replayed"] is False
    assert first.buffer("b").stats().num_records == 12
    expect_same(first, second)


def test_who_holds_the_last_connection_uploads_with_it(pair: tuple[SharedStore, SharedStore]) -> None:
    first, second = pair
    buffer, _ = first.create_buffer("b", budget_bytes=90_000)
    with ExitStack() as others:
        for number in range(1, connecting.CONNECTIONS):
            others.enter_context(first._index.changing(1000 + number))
        push(buffer, 0, 20)
    assert any(segment.sealed for segment in buffer.state.segments.values())
    expect_same(first, second)


def test_who_waits_too_long_for_another_one_is_told_for_what(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = pair
    buffer, _ = first.create_buffer("b", budget_bytes=90_000)
    monkeypatch.setattr(taking_part, "LOCK_TIMEOUT_SECONDS", 0.05)
    with SharedStore(tmp_path / "three", OPTIONS, open_ports=first._places) as third:
        for held, call, words in (
            (buffer.config.id, lambda: push(third.buffer("b"), 0), "the buffer is being changed"),
            (ERASING, lambda: third.fork("b", "c"), "records are being erased, or a buffer is being forked,"),
            (NAMES, lambda: third.create_buffer("c", budget_bytes=90_000), "a buffer is being made"),
        ):
            with first._index.changing(held), pytest.raises(StorageError, match=f"{words} through another replica"):
                call()
    assert [known.name for known in first.buffers()] == ["b"]


def test_who_builds_on_an_older_state_changes_nothing(pair: tuple[SharedStore, SharedStore]) -> None:
    """The database sees to that, whatever a replica believes."""
    first, second = pair
    buffer, _ = first.create_buffer("b", budget_bytes=90_000)
    push(buffer, 0)
    other = second.buffer("b")
    old = other.state
    push(buffer, 1)
    held_before = held(buffer)
    with other._changing():
        other.contents.state = old
        with pytest.raises(StorageError, match="behind the service's back"):
            other._commits.commit(changes.deletion(old, np.array([0])))
    assert held(first.buffer("b")) == held_before
    with other._changing():
        other._index._session.number -= 1  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match="behind the service's back"):
            other._commits.commit(other.state.change(names={1: "one"}))
    expect_same(first, second)


def test_what_an_ended_replica_has_left_is_removed(
    tmp_path: Path, postgres: PostgresServer, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before its deadline; and what is noted as a segment in time stays."""
    use(object_store, monkeypatch)
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)
    segments = object_store.new_prefix()
    places = Places(postgres.new_schema(), segments, replicas=True)
    with SharedStore(tmp_path / "one", OPTIONS, open_ports=places) as first:
        buffer, _ = first.create_buffer("b", budget_bytes=90_000, disk_limit_bytes=900_000)
        push(buffer, 0, 12)
        # Uploads under way in one that ends, of which one is over time.
        for stem, seconds in (("a" * 32, -1.0), ("b" * 32, 600.0)):
            first._index.begin_uploads([stem], seconds)
            object_store.put(segments, f"segments/{stem}.zarr.zip", b"half")
        with SharedStore(tmp_path / "two", OPTIONS, open_ports=places) as second:
            second.sweep()
            assert second._segments._sweeper.wait(10)  # type: ignore[attr-defined]
            left = object_store.keys(segments)
            assert f"segments/{'a' * 32}.zarr.zip" not in left
            assert f"segments/{'b' * 32}.zarr.zip" in left
            # Too late: somebody else has begun to remove it.
            monkeypatch.setattr(objects, "UPLOAD_SECONDS", -1.0)
            monkeypatch.setattr(objects, "_ALL_TRIES_SECONDS", -9.0)
            upload = Bucket.create

            def swept() -> set[str]:
                # Names are forgotten by the change that follows.
                for _ in range(2):
                    second.sweep()
                    assert second._segments._sweeper.wait(10)  # type: ignore[attr-defined]
                return object_store.keys(segments)

            def slow(of: Bucket, key: str, pieces: Iterable[bytes | bytearray | memoryview]) -> bool:
                swept()
                return upload(of, key, pieces)

            before = swept()
            monkeypatch.setattr(Bucket, "create", slow)
            with pytest.raises(StorageError, match="put too late"):
                push(second.buffer("b"), 1, 12)
            monkeypatch.undo()
            assert second.buffer("b").state.columns.num_records == 12
            expect_same(first, second)
            # What has arrived nevertheless goes with the name, once as much time has passed again.
            late = swept() - before
            assert len(late) == 1
            with second._index.writing() as transaction:
                transaction.connection.execute(sa.update(tables.intents).values(upload_until=0))
            assert late & swept() == set()


def test_what_arrives_when_its_name_is_forgotten_goes_by_who_has_put_it(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a machine that stood still for very long."""
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)
    places = Places(postgres.new_schema(), (tmp_path / "objects").as_uri(), replicas=True)
    upload, arrived = Bucket.create, list[str]()

    def slow(of: Bucket, key: str, pieces: Iterable[bytes | bytearray | memoryview]) -> bool:
        with second._index.writing() as transaction:
            transaction.connection.execute(sa.delete(tables.intents))
        arrived.append(key)
        return upload(of, key, pieces)

    with SharedStore(tmp_path / "one", OPTIONS, open_ports=places) as second:
        buffer, _ = second.create_buffer("b", budget_bytes=90_000, disk_limit_bytes=900_000)
        push(buffer, 0, 12)
        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "create", slow)
            with pytest.raises(StorageError, match="put too late"):
                push(buffer, 1, 12)
        push(buffer, 2, 12)
        assert second._segments._sweeper.wait(10)  # type: ignore[attr-defined]
        with second._index.reading() as reading:
            sealed = {f"{segment.stem}.zarr.zip" for segment in reading.segments() if segment.sealed}
        assert arrived
        assert sealed
        assert {path.name for path in (tmp_path / "objects" / "segments").iterdir()} == sealed


def test_a_replica_that_ends_holds_nothing_by_a_sweep_under_way(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, segments = postgres.new_schema(), (tmp_path / "objects").as_uri()
    began, sweep = threading.Event(), SharedStore.sweep

    def late(of: SharedStore) -> None:
        began.set()
        of._closed.wait()
        # Behind all that ending does, if that does not wait.
        threading.Event().wait(0.1)
        sweep(of)

    monkeypatch.setattr(shared, "_SWEEP_SECONDS", 0.0)
    monkeypatch.setattr(SharedStore, "sweep", late)
    with SharedStore(tmp_path / "one", OPTIONS, open_ports=Places(url, segments, replicas=True)) as replica:
        assert began.wait(10)
    assert not any(thread.is_alive() for thread in replica._threads)
    with Store(tmp_path / "alone", OPTIONS, open_ports=Places(url, segments)) as alone:
        assert alone.buffers() == []


# What it costs


@pytest.mark.parametrize(
    ("options", "count", "key", "most"),
    [
        (Options(), 1, False, 2),
        (Options(), 1, True, 2),
        (Options(), 1_000, True, 2 + 1),
        (Options(learner_bytes=10**9), 1, True, 2 + 1),
    ],
    ids=["without a key", "with a key", "that uploads", "where what a learner may have is bounded"],
)
def test_a_push_over_http_waits_twice_for_the_database_and_once_for_all_uploads(
    options: Options,
    count: int,
    key: bool,
    most: int,
    tmp_path: Path,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one that evicts whole segments, and makes several. And once more for a bound on learners."""
    monkeypatch.setattr(shared, "_SWEEP_SECONDS", 3600.0)
    url, segments = postgres.new_schema(), f"memory://{uuid4().hex}"
    body = encode_batch([make_exemplar(i % 3, i, pad=1_000) for i in range(count)])
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as place:
        proxy = CountingProxy(Path(place), Path(postgres.socket))
        places = Places(url.replace(postgres.socket, place), segments, replicas=True)
        with (
            SharedStore(tmp_path / "store", options, open_ports=places) as store,
            TestClient(create_app(Settings(data=tmp_path), store), LOOPBACK) as client,
        ):
            # Full: each push evicts as much.
            charge = sum(record.charge for record in decode_batch(body))
            buffer, _ = store.create_buffer("b", budget_bytes=charge, eviction="fifo", disk_limit_bytes=8_000_000)
            index = store._index
            assert isinstance(index, SharedIndex)

            def push_once(named: str) -> None:
                headers = {"Content-Type": MEDIA_TYPE} | ({"Idempotency-Key": named} if key else {})
                answer = client.post("/v1/buffers/b/exemplars", content=body, headers=headers)
                assert answer.json()["kept"] == count

            # Connections are made when they are needed.
            for turn in range(3):
                push_once(f"first-{turn}")
            counted = []
            for turn in range(6):
                wait_until_let_go(index)
                proxy.round_trips = 0
                push_once(f"k{turn}")
                # One more, for which nobody waits, lets go of the buffer.
                wait_until_let_go(index)
                counted.append(proxy.round_trips)
            assert max(counted) <= most + 1, counted
            assert sum(segment.sealed for segment in buffer.state.segments.values()) >= (2 if count > 1 else 0)
            expect_loaded_state(buffer)
        proxy.close()
    bucket.forget_memory(segments)


def wait_until_let_go(index: SharedIndex) -> None:
    for step in (index._free.acquire, index._free.release):
        for _ in range(connecting.CONNECTIONS):
            step()
