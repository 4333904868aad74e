"""Erasing over replicas: the bytes are gone from every object, the index, and what each replica has copied."""

from __future__ import annotations

import fcntl
import random
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from memory_format import NotFoundError, Record, StorageError, encode_batch
from memory_format.revise import NewArray
from memory_service.store import Buffer, erasures, shared
from memory_service.store.admin.verify import verify
from memory_service.store.directory import Places
from memory_service.store.erasures import Erasures
from memory_service.store.index import connecting, erased
from memory_service.store.index.erased import NOBODY, Named
from memory_service.store.index.shared import SharedIndex
from memory_service.store.index.watching import Watch, named_in
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.selection import Filter
from memory_service.store.receipts import Receipts
from memory_service.store.segments import appending
from memory_service.store.segments.bucket import Bucket
from memory_service.store.segments.objects import ObjectSegments
from memory_service.store.segments.readers import LeaseEndedError
from memory_service.store.shared import SharedStore
from memory_service.store.wiping import Wiping
from memory_service.store.writer import InFlight
from memory_service.testing import ServiceProcess, expect_loaded_state
from tests.memory_service.helpers import ARROW, all_records
from tests.memory_service.places import big_records
from tests.memory_service.searching import files_with, has, objects_with, tables_with
from tests.objects import ObjectStore, use
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)
LIMITS = {"budget_bytes": 20_000_000, "disk_limit_bytes": 80_000_000}
URL = "/v1/buffers/b/exemplars"


# In one process


@pytest.fixture
def pair(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SharedStore, SharedStore]]:
    """Two replicas whose files are all in one directory. Both have copies of 20 records, the last in an open segment,
    and there is a fork of them."""
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)
    places = Places(postgres.new_schema(), (tmp_path / "objects").as_uri(), replicas=True)
    options = Options(segment_bytes=90_000)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(SharedStore(tmp_path / name, options, open_ports=places)) for name in ("one", "two")
        )
        first.create_buffer("b", **LIMITS)
        first.buffer("b").push(encode_batch(RECORDS))
        second.fork("b", "f")
        for store in (first, second):
            for name in ("b", "f"):
                read(store.buffer(name))
        yield first, second


RECORDS = big_records(19, first=7000)
GONE = [RECORDS[2], RECORDS[18]]


def read(buffer: Buffer) -> bytes:
    return bytes(buffer.query_encoded(Query(limit=1000))[0])


def expect_gone(pair: Sequence[SharedStore], data: Path, postgres: PostgresServer, ids: Sequence[int]) -> None:
    """Everywhere, and both agree."""
    assert files_with(data, GONE) == set()
    assert not any(has(bytes(row), GONE) for row in open_bodies(pair[0]))
    for name in ("b", "f"):
        one, two = (store.buffer(name) for store in pair)
        assert read(one) == read(two)
        assert not set(one.state.columns.shown["exemplar_id"].tolist()) & {*ids}
        for buffer in (one, two):
            expect_loaded_state(buffer)
    with pair[0]._index.reading() as reading:
        assert not reading.erasures()


def open_bodies(store: SharedStore) -> list[bytes]:
    with store._index.reading() as reading:
        stems = [segment.stem for segment in reading.segments() if not segment.sealed]
    return [piece for stem in stems for piece in store._index.open_bodies(stem) or ()]


DEATHS: dict[str, tuple[Any, str]] = {
    "noted": (Erasures, "_finish"),
    "taken out": (Wiping, "rewrite"),
    "rewritten": (ObjectSegments, "expect_gone"),
    "cleared": (SharedIndex, "count_erasure"),
    "confirmed": (Receipts, "keep"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_what_one_was_at_that_ends_another_one_ends(
    pair: tuple[SharedStore, SharedStore],
    tmp_path: Path,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    death: str,
) -> None:
    first, second = pair
    assert len(files_with(tmp_path, GONE)) > 4

    def end(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*DEATHS[death], end)
        with pytest.raises(KeyboardInterrupt):
            first.erasures.erase(first.buffer("b"), [3, 19])
    assert second.erasures.receipts.page(5).receipts == ()
    with first._index.reading() as reading:
        pending = reading.erasures()
    second.go_on_erasing()
    # Who has seen that it is to be done, and comes too late.
    first.erasures.resume(pending)
    (kept,) = first.erasures.receipts.page(5).receipts
    assert (kept.receipt.exemplar_ids, kept.receipt.unconfirmed, kept.buffers) == ((3, 19), (), ("b", "f"))
    expect_gone(pair, tmp_path, postgres, [3, 19])


def test_arrays_that_are_replaced_meanwhile_through_another_go_too(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    finish = Erasures._finish
    values = np.arange(40, dtype=np.float32)[None] * np.float32(1.2345)

    def late(self: Erasures, *more: Any) -> Any:
        if self is first.erasures:
            for turn in range(2):
                given = {"logits": NewArray(values + turn, "float32")}
                for name in ("b", "f"):
                    assert second.buffer(name).update([3], arrays=given).updated == 1
            with second.buffer("b")._changing():
                # Nothing is left of what was noted.
                while second.buffer("b")._commits.compactor.compact_one(10**6):
                    pass
        return finish(self, *more)

    monkeypatch.setattr(Erasures, "_finish", late)
    answer = first.erasures.erase(first.buffer("b"), [3, 19])
    assert answer.deleted == (3, 19)
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and any((values + turn).tobytes() in path.read_bytes() for turn in range(2))
    ]
    expect_gone(pair, tmp_path, postgres, [3, 19])


def test_what_was_put_for_a_change_that_came_to_nothing_goes_too(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its time is over."""
    first, second = pair
    before = files_with(tmp_path / "objects", GONE)

    def end(*_: Any) -> None:
        raise StorageError("no answer")

    with monkeypatch.context() as patched, second.buffer("b")._changing():
        patched.setattr(InFlight, "note", end)
        (segment, *_) = second.buffer("b").state.segments.values()
        with pytest.raises(StorageError):
            second.buffer("b")._commits.compactor.rewrite(segment)
    assert len(files_with(tmp_path / "objects", GONE) - before) == 1
    first.erasures.erase(first.buffer("b"), [3, 19])
    expect_gone(pair, tmp_path, postgres, [3, 19])


def drop_dead(buffer: Buffer, ids: Sequence[int]) -> None:
    """Delete records, and rewrite their segments without them, as a push that needs the room does."""
    buffer.delete(ids)
    with buffer._changing():
        while buffer._commits.compactor.compact_one(10**6):
            pass


@pytest.mark.parametrize("by", ["id", "filter"])
def test_what_was_deleted_and_compacted_before_is_nowhere_either(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer, by: str
) -> None:
    """Objects that others may read for a while have it, and pages of the database, and copies of who has not heard that
    no segment has."""
    first, second = pair
    for name in ("b", "f"):
        drop_dead(first.buffer(name), [3, 19])
    assert len(files_with(tmp_path, GONE)) > 2
    if by == "id":
        with pytest.raises(NotFoundError, match="no exemplar 3;"):
            first.erasures.erase(first.buffer("b"), [3, 19])
    else:
        assert first.erasures.erase(first.buffer("b"), None, Filter(learner_id=("nobody",))).receipt is None
    expect_gone(pair, tmp_path, postgres, [3, 19])
    number = second._watch.look()
    # Nobody was ever given that id.
    with pytest.raises(NotFoundError, match="no exemplar 99;"):
        first.erasures.erase(first.buffer("b"), [99])
    assert second._watch.look() == number


def test_what_a_fork_has_and_its_source_has_lost_is_gone_from_all(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer
) -> None:
    """One is dead in a segment of the fork's, the other one lives on there."""
    first, second = pair
    drop_dead(first.buffer("b"), [3, 19])
    second.buffer("f").delete([3])
    receipt = first.erasures.erase(first.buffer("b"), [3, 19]).receipt
    assert receipt is not None
    assert (receipt.exemplar_ids, receipt.unconfirmed) == ((3, 19), ())
    assert [(lost.buffer, lost.exemplar_ids) for lost in receipt.buffers] == [("f", (19,))]
    expect_gone(pair, tmp_path, postgres, [3, 19])


@pytest.mark.parametrize("met", [(ObjectSegments, "sweep"), (SharedStore, "_open_buffer")], ids=["start", "look"])
def test_what_another_one_removes_that_the_index_has_just_named_is_looked_for_anew(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, met: tuple[Any, str]
) -> None:
    """By a replica that starts, or that has never seen the buffer."""
    for module in (erasures, shared):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    first, second = pair
    first.create_buffer("c", **LIMITS)
    first.buffer("c").push(encode_batch(big_records(6, first=8000)))
    erased: list[int] = []
    original = getattr(*met)

    def erase_first(*given: Any, **more: Any) -> Any:
        if not erased:
            erased.append(3)
            first.erasures.erase(first.buffer("c"), erased)
        return original(*given, **more)

    monkeypatch.setattr(*met, erase_first)
    with ExitStack() as stack:
        other = second
        if met[1] == "sweep":
            other = stack.enter_context(SharedStore(tmp_path / "three", first._options, open_ports=first._places))
        assert read(other.buffer("c")) == read(first.buffer("c"))
        assert erased
        assert 3 not in other.buffer("c").state.columns.shown["exemplar_id"]


def test_what_leaves_other_buffers_can_be_read_on(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer
) -> None:
    first, _ = pair
    first.create_buffer("c", **LIMITS)
    others = big_records(6, first=8000)
    first.buffer("c").push(encode_batch(others))
    for name, id_ in (("c", 2), ("b", 5), ("f", 5)):
        drop_dead(first.buffer(name), [id_])
    assert files_with(tmp_path / "objects", RECORDS[4:5])
    assert files_with(tmp_path / "objects", others[1:2])
    first.erasures.erase(first.buffer("f"), [3, 19])
    # What the fork is of may have had what is erased.
    assert not files_with(tmp_path / "objects", RECORDS[4:5])
    assert files_with(tmp_path / "objects", others[1:2])


def test_who_does_not_answer_is_named_until_it_does(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that it makes has what is erased."""
    first, second = pair
    for module in (erasures, shared):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(shared, "_AGAIN_SECONDS", 0.01)
    (tmp_path / "two" / "copy").write_bytes(GONE[0].body)
    with second._archiving:
        receipt = first.erasures.erase(first.buffer("b"), [3, 19]).receipt
        assert receipt is not None
        (place,) = receipt.unconfirmed or ()
        (kept,) = second.erasures.receipts.page(5).receipts
        assert kept.unconfirmed == (place,)
        # Whoever is asked there is answered with what is left.
        assert second.buffer("b").state.columns.num_records == 17
        (tmp_path / "two" / "copy").unlink()
    while second.erasures.receipts.page(5).receipts[0].unconfirmed:
        time.sleep(0.01)
    expect_gone(pair, tmp_path, postgres, [3, 19])


def test_who_cannot_remove_a_copy_tries_again(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    monkeypatch.setattr(shared, "_AGAIN_SECONDS", 0.01)
    keep_only, failed = ObjectSegments.keep_only, list[bool]()

    def keep(of: ObjectSegments, *given: Any) -> None:
        if of is second._segments and not failed:
            failed.append(True)
            raise PermissionError(13, "Permission denied")
        keep_only(of, *given)

    monkeypatch.setattr(ObjectSegments, "keep_only", keep)
    receipt = first.erasures.erase(first.buffer("b"), [3, 19]).receipt
    assert receipt is not None
    assert (receipt.unconfirmed, failed) == ((), [True])
    expect_gone(pair, tmp_path, postgres, [3, 19])


def test_what_is_about_to_be_committed_is_copied_all_the_same(
    pair: tuple[SharedStore, SharedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where copies are dropped after it was put."""
    _, second = pair
    note, spans, asked = InFlight.note, Bucket.read_spans, list[str]()

    def late(*given: Any) -> Any:
        second.drop_copies()
        return note(*given)

    with monkeypatch.context() as patched:
        patched.setattr(InFlight, "note", late)
        second.buffer("b").push(encode_batch(big_records(5, first=8000)))

    def count(of: Bucket, key: str, wanted: Any) -> Any:
        asked.append(key)
        return spans(of, key, wanted)

    monkeypatch.setattr(Bucket, "read_spans", count)
    held = read(second.buffer("b"))
    assert asked
    asked.clear()
    assert read(second.buffer("b")) == held
    assert asked == []


def test_answers_of_others_that_have_it_are_cut_short(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, postgres: PostgresServer
) -> None:
    first, second = pair
    with closing(second.buffer("b").export()) as whole, closing(second.buffer("f").export()) as other:
        for export in (whole, other):
            next(export)
        first.erasures.erase(first.buffer("f"), [3, 19])
        with pytest.raises(LeaseEndedError):
            list(other)
        # It is of the buffer that has it still.
        assert len(list(whole)) > 1
    first.erasures.erase(first.buffer("b"), [3, 19])
    expect_gone(pair, tmp_path, postgres, [3, 19])


def test_replicas_that_do_not_come_back_are_not_named_for_ever(
    pair: tuple[SharedStore, SharedStore], postgres: PostgresServer
) -> None:
    first, _ = pair
    index = first._index
    assert isinstance(index, SharedIndex)
    with index.writing() as transaction:
        for number, days in enumerate((29, 31)):
            values = f"('{number}' || repeat('a', 31), 'away {number}', 0, extract(epoch FROM now()) - 86400 * {days})"
            transaction.connection.exec_driver_sql(f"INSERT INTO replicas VALUES {values}")
        transaction.connection.exec_driver_sql(f"UPDATE replicas SET seen_at = 0 WHERE id = '{index.replica.id}'")
    assert index.watch is not None
    index.watch._connection.invalidate()  # type: ignore[union-attr]
    index.watch.wake()
    while len(index.behind(99)) > 2:
        time.sleep(0.01)
    assert ("away 0", False) in [(replica.place, replica.is_there) for replica in index.behind(99)]
    receipt = first.erasures.erase(first.buffer("b"), [3]).receipt
    assert receipt is not None
    assert receipt.unconfirmed == ("away 0",)


def test_a_replica_that_is_there_is_not_forgotten(pair: tuple[SharedStore, SharedStore]) -> None:
    """However long ago it has started, and the last erasure was."""
    index = pair[0]._index
    assert isinstance(index, SharedIndex)
    with index.writing() as transaction:
        transaction.connection.exec_driver_sql("UPDATE replicas SET seen_at = 0")
        transaction.connection.execute(erased._TELL)

    def unseen() -> int:
        with index.reading() as reading:
            found = reading.connection.exec_driver_sql("SELECT count(*) FROM replicas WHERE seen_at = 0")
            return int(found.scalar_one())

    while unseen():
        time.sleep(0.01)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"a" * 31, b"-"])
def test_a_replica_that_does_not_know_who_it_was_is_a_new_one(tmp_path: Path, content: bytes) -> None:
    """And none that all others in that state would be, too."""
    (tmp_path / "replica").write_bytes(content)
    assert named_in(tmp_path) == NOBODY


@pytest.fixture
def joining(pair: tuple[SharedStore, SharedStore], tmp_path: Path) -> Iterator[Callable[..., Named]]:
    """What a directory of this name is called, once a replica in it has joined, or could not reach the database."""
    url = pair[0]._places.index
    assert url is not None
    with ExitStack() as stack:

        def join(name: str, *, reached: bool = True) -> Named:
            there = url if reached else "postgresql+psycopg://memory@127.0.0.1:1/memory"
            watch = Watch(connecting.make_engine(connecting.parse(there)), tmp_path / name, lambda _: None)
            stack.callback(watch.close)
            if reached:
                watch.join()
            else:
                with pytest.raises(StorageError):
                    watch.join()
            watch.close()
            return named_in(tmp_path / name)

        yield join


def test_a_replica_whose_starts_the_index_did_not_hear_of_is_the_same(
    joining: Callable[..., Named], tmp_path: Path
) -> None:
    (tmp_path / "three").mkdir()
    begun = joining("three")
    pending = joining("three", reached=False)
    assert pending.id == begun.id
    assert pending.runs[1:] == begun.runs
    assert joining("three", reached=False) == pending
    assert joining("three") == Named(begun.id, pending.runs[:1])
    # As an earlier version left it, of which the index knows no more.
    (tmp_path / "four").mkdir()
    (tmp_path / "four/replica").write_text(f"{'4' * 32}\n")
    assert joining("four").id == "4" * 32


def test_a_directory_that_was_copied_is_another_replica_whichever_begins_first(
    joining: Callable[..., Named], tmp_path: Path
) -> None:
    (tmp_path / "three").mkdir()
    begun = joining("three")
    shutil.copytree(tmp_path / "three", tmp_path / "four")
    assert joining("four").id == begun.id
    other = joining("three").id
    assert other != begun.id
    assert (joining("three").id, joining("four").id) == (other, begun.id)


def test_a_replica_whose_directory_is_copied_meanwhile_is_waited_for_like_its_copy(
    pair: tuple[SharedStore, SharedStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    with SharedStore(tmp_path / "three", first._options, open_ports=first._places) as third:
        stores = [first, second, third]
        assert len({named_in(store.data).id for store in stores}) == 3
        assert "was copied, and another replica has its id" in caplog.text
        for store in stores:
            assert isinstance(store._index, SharedIndex)
            assert store._index.replica == named_in(store.data)
        read(third.buffer("b"))
    receipt = second.erasures.erase(second.buffer("b"), [3]).receipt
    assert receipt is not None
    # The copy's alone, which is away: the other one has confirmed.
    assert receipt.unconfirmed == (f"{socket.gethostname()} ({named_in(tmp_path / 'three').id[:8]})",)


def test_a_replica_with_many_open_files_waits_all_the_same(postgres: PostgresServer, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2048), hard))
    watch = Watch(connecting.make_engine(connecting.parse(postgres.url())), tmp_path, lambda _: None)
    try:
        high = fcntl.fcntl(watch._woken, fcntl.F_DUPFD_CLOEXEC, 1500)
        watch._woken.close()
        watch._woken = socket.socket(fileno=high)
        began = time.monotonic()
        watch.wait(0.05)
        assert time.monotonic() - began > 0.04
        watch.wake()
        watch.wait(60)
    finally:
        watch.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Processes over an object store


class Site:
    """Two replicas, of which each has read everything."""

    def __init__(self, directory: Path, postgres: PostgresServer, store: ObjectStore, stack: ExitStack) -> None:
        self.directory, self.postgres, self.store, self.stack = directory, postgres, store, stack
        self.index, self.segments = postgres.new_schema(), store.new_prefix()
        self.replicas = [self.start(number) for number in range(2)]

    def start(self, number: int) -> ServiceProcess:
        environment = {
            **self.store.environment,
            "MEMORY_SERVICE_INDEX": self.index,
            "MEMORY_SERVICE_SEGMENTS": self.segments,
            "MEMORY_SERVICE_SEGMENT_BYTES": str(appending.SMALLEST_SEALED),
        }
        made = ServiceProcess(self.directory / f"replica-{number}", "--replicas", environment=environment)
        return self.stack.enter_context(made)

    def ask(self, number: int, method: str, path: str, **given: Any) -> httpx.Response:
        return httpx.request(method, f"{self.replicas[number].url}{path}", timeout=60, **given)

    def push(self, number: int, records: Sequence[Record]) -> list[int]:
        answer = self.ask(number, "POST", URL, content=encode_batch(records), headers=ARROW)
        given: list[int] = answer.raise_for_status().json()["exemplar_ids"]
        return given

    def read(self, number: int, name: str = "b") -> dict[int, bytes]:
        with httpx.Client(base_url=self.replicas[number].url, timeout=60) as client:
            return {record.exemplar_id: record.body for record in all_records(client, buffer=name)}

    def erase(self, number: int, ids: Sequence[int]) -> dict[str, Any]:
        answer = self.ask(number, "DELETE", URL, params={"exemplar_id": list(ids), "erase": "true"})
        said: dict[str, Any] = answer.raise_for_status().json()
        return said

    def in_database(self, records: Sequence[Record]) -> set[str]:
        return tables_with(self.postgres, records)

    def in_objects(self, records: Sequence[Record]) -> set[str]:
        return objects_with(self.store, self.segments, records)

    def copied(self, number: int, records: Sequence[Record]) -> set[str]:
        return files_with(self.directory / f"replica-{number}", records)


@pytest.fixture
def site(
    tmp_path: Path, postgres: PostgresServer, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    use(object_store, monkeypatch)
    with ExitStack() as stack:
        yield Site(tmp_path, postgres, object_store, stack)


def test_it_is_gone_from_objects_index_and_the_copies_of_all(site: Site) -> None:
    """While the other replica goes on pushing, compacting and taking snapshots. Of one that is away the receipt says
    so, and it removes its copies before it answers anything. One that is killed amid an erasure has erased, or the
    request is repeated."""
    assert site.ask(0, "PUT", "/v1/buffers/b", json=LIMITS).status_code == 201
    records = big_records(34, first=9000)
    held = dict(zip(site.push(0, records), records, strict=True))
    assert site.ask(1, "PUT", "/v1/buffers/b/snapshots/s").status_code == 201
    assert site.ask(0, "POST", "/v1/buffers/b/forks", json={"name": "f"}).status_code == 201
    for number in range(2):
        for name in ("b", "f"):
            site.read(number, name)
    gone = [records[2], records[33]]
    for where in (site.in_database(gone), site.in_objects(gone), site.copied(0, gone), site.copied(1, gone)):
        assert where

    done, others = threading.Event(), big_records(12, first=9500)

    def go_on() -> None:
        for turn in range(0, 12, 2):
            ids = site.push(0, others[turn : turn + 2])
            site.ask(0, "PUT", f"/v1/buffers/b/snapshots/t{turn}")
            site.ask(0, "DELETE", f"{URL}/{ids[0]}")
            held[ids[1]] = others[turn + 1]
            site.read(0)
            if done.is_set():
                return

    pusher = threading.Thread(target=go_on)
    pusher.start()
    answer = site.erase(1, [3, 34])
    done.set()
    pusher.join()
    expect_answer(answer, [3, 34])
    assert answer["receipt"]["unconfirmed"] == []
    expect_site(site, gone, held, [3, 34])
    for number in range(2):
        (kept,) = site.ask(number, "GET", "/v1/erasures").json()["receipts"]
        assert (kept["receipt"], kept["unconfirmed"]) == (answer["receipt"], [])

    # One that is away
    gone = [records[5]]
    assert site.copied(0, gone)
    site.replicas[0].kill()
    answer = site.erase(1, [6])
    expect_answer(answer, [6])
    (place,) = answer["receipt"]["unconfirmed"]
    assert place
    assert not site.copied(1, gone) | site.in_objects(gone) | site.in_database(gone)
    site.replicas[0] = site.start(0)
    assert not site.copied(0, gone)
    while (kept := site.ask(0, "GET", "/v1/erasures").json()["receipts"][0])["unconfirmed"]:
        time.sleep(0.02)
    assert kept["receipt"] == answer["receipt"]
    expect_site(site, gone, held, [6])

    # One that is killed amid it
    gone = [records[8], records[20]]
    eraser = threading.Thread(target=lambda: suppressed(lambda: site.erase(0, [9, 21])))
    eraser.start()
    eraser.join(random.uniform(0.0, 0.2))
    site.replicas[0].kill()
    eraser.join()
    again = site.erase(1, [9, 21])
    assert again["receipt"] is None or again["deleted"] == [9, 21]
    site.replicas[0] = site.start(0)
    expect_site(site, gone, held, [9, 21])
    kept = site.ask(0, "GET", "/v1/erasures").json()["receipts"][0]
    assert kept["receipt"]["exemplar_ids"] == [9, 21]
    report = verify(site.directory / "replica-1", Places(site.index, site.segments))
    assert report.sound, report.problems


def suppressed(call: Callable[[], object]) -> None:
    with suppress(httpx.TransportError):
        call()


def expect_answer(answer: dict[str, Any], ids: list[int]) -> None:
    receipt = answer["receipt"]
    assert answer["deleted"] == receipt["exemplar_ids"] == ids
    assert [lost["buffer"] for lost in receipt["buffers"]] == ["b", "f"]
    assert receipt["buffers"][0]["snapshots"]["s"] == len(ids)
    assert receipt["files"]


def expect_site(site: Site, gone: Sequence[Record], held: dict[int, Record], ids: Sequence[int]) -> None:
    """It is nowhere, and all else is there."""
    for id_ in ids:
        del held[id_]
    expected = {id_: record.body for id_, record in held.items()}
    assert site.read(0) == site.read(1) == expected
    assert site.in_objects(gone) == set()
    assert site.in_database(gone) == set()
    for number in range(2):
        assert site.copied(number, gone) == set()
