"""A store whose segments are objects: what is put, what is copied here, and what a store that is away leaves."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from client import MemoryClient
from memory_format import Record, StorageError, decode_batch, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.directory import Places
from memory_service.store.index.sql import AHEAD
from memory_service.store.lent import NotLentError
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments import bucket, copies, objects
from memory_service.store.segments.objects import ObjectSegments
from memory_service.store.transfer import export
from memory_service.testing import ServiceProcess, expect_loaded_state
from tests.memory_service.conftest import running
from tests.memory_service.helpers import command, make_exemplar, wait_until
from tests.objects import ObjectStore, use

OPTIONS = Options(segment_bytes=300_000)
"""A segment of 15 records is full, and is sealed."""
BIG = 20_000
LIMITS: dict[str, Any] = {"budget_bytes": 4_000_000, "disk_limit_bytes": 20_000_000}


@pytest.fixture(autouse=True)
def url(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    use(object_store, monkeypatch)
    return object_store.new_prefix()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "store"


def open_store(data: Path, url: str, **places: Any) -> Store:
    return Store(data, OPTIONS, open_ports=Places(segments=url, **places))


def records(number: int, *, first: int = 0) -> list[Record]:
    # Bytes that no two of them share, and that nothing compresses.
    noise = np.random.default_rng(first)
    pads = [noise.bytes(BIG // 2).hex() for _ in range(number)]
    return [make_exemplar(at % 3, first + at, user_json={"noise": pad}) for at, pad in enumerate(pads)]


def filled(store: Store, number: int = 40) -> Buffer:
    buffer, _ = store.create_buffer("b", **LIMITS)
    buffer.push(encode_batch(records(number)))
    return buffer


def held(buffer: Buffer) -> list[Record]:
    return decode_batch(bytes(buffer.query_encoded(Query(limit=1000))[0]))


def segments_of(store: Store) -> ObjectSegments:
    assert isinstance(store._segments, ObjectSegments)
    return store._segments


def sealed(buffer: Buffer) -> set[str]:
    """Keys of the objects that there should be."""
    return {f"segments/{state.stem}.zarr.zip" for state in buffer.state.segments.values() if state.sealed}


def put(object_store: ObjectStore, url: str) -> set[str]:
    """Keys of those that there are."""
    return {key for key in object_store.keys(url) if key.startswith("segments/")}


def settled(store: Store) -> None:
    assert segments_of(store)._sweeper.wait(20)


# What is put


def test_a_push_of_one_record_costs_no_object_and_a_full_segment_is_one(
    data: Path, url: str, object_store: ObjectStore
) -> None:
    with open_store(data, url) as store:
        buffer, _ = store.create_buffer("b", **LIMITS)
        for at in range(14):
            buffer.push(encode_batch(records(1, first=at)))
        assert put(object_store, url) == set()
        buffer.push(encode_batch(records(1, first=14)))
        assert put(object_store, url) == sealed(buffer) != set()
        (key,) = sealed(buffer)
        expect_loaded_state(buffer)
        drawn = held(buffer)
    (data / "one.zip").write_bytes(object_store.get(url, key))
    with ZipStore(data / "one.zip", mode="r") as source:
        group = zarr.open_group(source, mode="r")
        assert np.asarray(group["exemplar_id"]).tolist() == list(range(1, 16))
        body = np.asarray(group["body"]).tobytes()
    assert body == b"".join(record.body for record in drawn)


def test_another_machine_goes_on_with_what_the_index_and_the_objects_say(data: Path, url: str, tmp_path: Path) -> None:
    """Without copies, and without any file of the store but its index."""
    with open_store(data, url) as store:
        before, drawn = held(filled(store)), bytes(store.buffer("b").sample(SampleRequest(9, seed=5))[0])
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(data / "index.sqlite", tmp_path / "elsewhere")
    with open_store(tmp_path / "elsewhere", url) as store:
        buffer = store.buffer("b")
        assert held(buffer) == before
        assert bytes(buffer.sample(SampleRequest(9, seed=5))[0]) == drawn
        buffer.push(encode_batch(records(20, first=100)))
        expect_loaded_state(buffer)


def test_of_many_who_put_one_name_at_once_one_is_told_that_it_is_theirs(url: str) -> None:
    place = bucket.Bucket(url)
    for name in map(str, range(5)):
        begin = threading.Barrier(8)

        def put(who: int, name: str = name, begin: threading.Barrier = begin) -> bool:
            begin.wait()
            return place.create(name, [bytes([who]) * 300_000])

        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(put, range(8)))
        assert taken.count(True) == 1
        assert place.read(name) == bytes([taken.index(True)]) * 300_000


@pytest.mark.parametrize("url", ["file", "memory"])
def test_other_places_hold_the_same(data: Path, tmp_path: Path, url: str) -> None:
    place = f"file://{tmp_path}/objects" if url == "file" else f"memory://{tmp_path.name.replace('_', '-')}"
    with open_store(data, place) as store:
        before = held(filled(store))
    with open_store(data, place) as store:
        assert held(store.buffer("b")) == before
        store.buffer("b").delete(list(range(1, 16)))
        settled(store)
        expect_loaded_state(store.buffer("b"))


def test_a_buffer_is_exported_imported_and_forked(data: Path, url: str, tmp_path: Path) -> None:
    with open_store(data, url) as store:
        buffer = filled(store)
        before = held(buffer)
        (tmp_path / "b.zip").write_bytes(b"".join(buffer.export()))
        imported = store.import_buffer("i", tmp_path / "b.zip")
        fork = store.fork("b", "f")
        buffer.delete([record.exemplar_id for record in before])
        for other in (imported, fork):
            assert held(other) == before
            expect_loaded_state(other)
    with open_store(data, url) as store:
        assert held(store.buffer("i")) == held(store.buffer("f")) == before


def expect_noted_once(buffer: Buffer) -> None:
    segments = buffer.state.segments.values()
    assert sum(segment.held.records for segment in segments) == buffer.state.columns.num_records
    assert any(segment.sealed for segment in segments)
    expect_loaded_state(buffer)


def test_an_import_of_several_batches_a_segment_is_as_its_source(
    data: Path, url: str, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PIECE_RECORDS", 4)
    with open_store(data, url) as store:
        buffer = filled(store)
        before = held(buffer)
        (tmp_path / "b.zip").write_bytes(b"".join(buffer.export()))
        imported = store.import_buffer("i", tmp_path / "b.zip")
        assert held(imported) == before
        expect_noted_once(imported)
        assert put(object_store, url) == sealed(buffer) | sealed(imported)
    with open_store(data, url) as store:
        assert held(store.buffer("i")) == before


def test_a_fork_that_copies_of_many_segments_is_as_its_source(data: Path, tmp_path: Path) -> None:
    with open_store(data, f"file://{tmp_path}/objects") as store:
        buffer, _ = store.create_buffer("b", budget_bytes=1_700_000, disk_limit_bytes=20_000_000)
        for first in range(1, 481, 15):
            buffer.push(encode_batch(records(15, first=first)))
            buffer.delete(list(range(first + 2, first + 15)))
        before, there = held(buffer), buffer.state.segments.keys()
        fork = store.fork("b", "f", disk_limit_bytes=6_000_000)
        assert held(fork) == before
        expect_noted_once(fork)
        assert any(segment.sealed for id_, segment in fork.state.segments.items() if id_ not in there)
    with open_store(data, f"file://{tmp_path}/objects") as store:
        assert held(store.buffer("f")) == before


# Copies


def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of ranges that are asked for from here on."""
    asked: list[int] = []
    read = bucket.Bucket.read_spans

    def counting(self: bucket.Bucket, key: str, spans: Any) -> Any:
        asked.extend(end - start for start, end in spans if key.startswith("segments/"))
        return read(self, key, spans)

    monkeypatch.setattr(bucket.Bucket, "read_spans", counting)
    return asked


def test_what_was_read_is_read_from_the_disk_also_after_a_crash(
    data: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(data, url) as store:
        before = held(filled(store))
    shutil.rmtree(data / "cache")
    asked = fetched(monkeypatch)
    store = open_store(data, url)
    assert held(store.buffer("b")) == before
    assert sum(asked) > 0
    store.release()
    asked.clear()
    with open_store(data, url) as store:
        assert held(store.buffer("b")) == before
    assert asked == []


def test_few_records_are_read_as_ranges_and_a_whole_segment_once_that_costs_as_much(
    data: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "REQUEST_BYTES", 10_000)
    with open_store(data, url) as store:
        filled(store)
    shutil.rmtree(data / "cache")
    asked = fetched(monkeypatch)
    with open_store(data, url) as store:
        buffer = store.buffer("b")
        size = buffer.state.segments[min(buffer.state.segments)].file_bytes
        one = buffer.get(1)
        assert asked == [len(one.body)]
        # Neighbours in one request, and what is here in none.
        buffer.fetch([2, 3]).next_piece()
        assert len(asked) == 2
        for id_ in (1, 2, 3):
            buffer.get(id_)
        assert len(asked) == 2
        for id_ in range(5, 15, 2):
            buffer.get(id_)
        assert sum(asked) < size
        buffer.fetch([4, 6, 8, 10]).next_piece()
        assert asked[-1] == size
        asked.clear()
        for id_ in range(1, 16):
            buffer.get(id_)
        assert asked == []


def test_a_segment_that_is_fetched_in_pieces_has_the_records_across_their_ends(
    data: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_PIECE", BIG // 2)
    monkeypatch.setattr(copies, "REQUEST_BYTES", 0)
    with open_store(data, url) as store:
        before = held(filled(store))
    shutil.rmtree(data / "cache")
    with open_store(data, url) as store:
        buffer = store.buffer("b")
        # What that cost comes to all of the segment, so that the next one is fetched with all of it.
        segments_of(store).copies._spent = {state.stem: state.file_bytes for state in buffer.state.segments.values()}
        # Each by itself: memory that is used again may hold what should have been read.
        assert [buffer.get(record.exemplar_id) for record in before] == before
        expect_loaded_state(buffer)


def test_copies_keep_to_their_bound_and_those_asked_for_last_stay(
    data: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(data, url, cache_bytes=1_000_000) as store:
        buffer = filled(store, 150)
        before = held(buffer)
        for _ in range(3):
            assert held(buffer) == before
            cache = segments_of(store).copies.cache
            assert cache.num_bytes <= 1_000_000
            on_disk = sum(path.stat().st_blocks * 512 for path in (data / "cache").rglob("*") if path.is_file())
            assert on_disk <= 1_000_000 + 4096 * len(buffer.state.segments)
        asked = fetched(monkeypatch)
        for _ in range(3):
            buffer.get(1)
            buffer.get(140)
        assert len(asked) <= 2


def test_damaged_copies_are_read_again_and_damaged_objects_are_said(
    data: Path, url: str, object_store: ObjectStore
) -> None:
    with open_store(data, url) as store:
        buffer = filled(store)
        before = held(buffer)
        for path in (data / "cache").rglob("*"):
            if path.is_file():
                path.write_bytes(bytes(path.stat().st_size))
        assert held(buffer) == before
    for path in (data / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x" * 1000)
    with open_store(data, url) as store:
        buffer = store.buffer("b")
        assert held(buffer) == before
        key = min(sealed(buffer))
        content = bytearray(object_store.get(url, key))
        content[1000:2000] = bytes(1000)
        object_store.put(url, key, bytes(content))
    shutil.rmtree(data / "cache")
    with open_store(data, url) as store:
        with pytest.raises(StorageError, match="is damaged") as caught:
            held(store.buffer("b"))
        assert caught.value.code == "corrupt_record"


def test_copies_of_another_store_are_never_taken(
    data: Path, url: str, object_store: ObjectStore, tmp_path: Path
) -> None:
    with open_store(data, url, cache=tmp_path / "cache") as store:
        before = held(filled(store))
    with open_store(tmp_path / "other", object_store.new_prefix(), cache=tmp_path / "cache") as store:
        assert held(filled(store, 3)) == records_as_held(store)
    with open_store(data, url, cache=tmp_path / "cache") as store:
        assert held(store.buffer("b")) == before
    assert len(list((tmp_path / "cache").iterdir())) == 2


def records_as_held(store: Store) -> list[Record]:
    found = held(store.buffer("b"))
    assert [record.body for record in found] == [record.body for record in records(3)]
    return found


# What goes


def test_nothing_is_left_of_what_was_deleted_moved_or_erased(data: Path, url: str, object_store: ObjectStore) -> None:
    with open_store(data, url) as store:
        buffer = filled(store)
        erased = held(buffer)[3]
        store.erasures.erase(buffer, [erased.exemplar_id, 40])
        for path in data.rglob("*"):
            if path.is_file():
                assert erased.body not in path.read_bytes(), path
        for key in object_store.keys(url):
            assert erased.body not in object_store.get(url, key), key
        buffer.delete(list(range(15, 25)))
        buffer.configure(lambda config: config)
        settled(store)
        assert put(object_store, url) == sealed(buffer)
        store.delete_buffer("b")
        settled(store)
        assert put(object_store, url) == set()
    assert _intents(data) <= 2 * AHEAD


def test_what_is_going_is_not_copied_any_more(data: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looked up a segment before it was deleted may find its object."""
    with open_store(data, url) as store:
        buffer = filled(store, 15)
        (record,), (state,) = held(buffer)[:1], buffer.state.segments.values()
        row = buffer.state.columns.take(np.array([0]))[0]
        place = (0, int(row["offset"]), int(row["length"]), int(row["crc32"]), 0)
        target = memoryview(bytearray(len(record.body)))
        with monkeypatch.context() as patched:
            patched.setattr(bucket.Bucket, "delete", lambda *_: None)
            buffer.delete([each.exemplar_id for each in held(buffer)])
            with segments_of(store).hold([state.stem]) as reader:
                reader.read([place], target)
            assert bytes(target) == record.body
            assert [path for path in data.rglob("*") if path.is_file() and record.body in path.read_bytes()] == []


def _intents(data: Path) -> int:
    with closing(sqlite3.connect(data / "index.sqlite")) as index:
        return int(index.execute("SELECT COUNT(*) FROM intents").fetchone()[0])


def test_what_is_read_stays_until_its_reader_is_done(data: Path, url: str, object_store: ObjectStore) -> None:
    """Also what of it was not copied yet."""
    with open_store(data, url) as store:
        before = bytes(filled(store).sample(SampleRequest(40, seed=1))[0])
    shutil.rmtree(data / "cache")
    with open_store(data, url) as store:
        buffer = store.buffer("b")
        drawn = buffer.draw(SampleRequest(40, seed=1))
        there = put(object_store, url)
        buffer.delete(buffer.state.columns["exemplar_id"].tolist())
        assert put(object_store, url) == there
        with drawn:
            got = b""
            while piece := drawn.next_piece():
                got += bytes(piece)
        assert got == before
        settled(store)
        assert put(object_store, url) == sealed(buffer)


def test_an_upload_is_named_before_and_goes_where_its_change_was_not_made(
    data: Path, url: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies behind an upload leaves an object. The next start leaves it to its deadline, then it goes."""
    create, named = bucket.Bucket.create, []

    def create_named(self: bucket.Bucket, key: str, pieces: Any) -> bool:
        if key.startswith("segments/"):
            with closing(sqlite3.connect(data / "index.sqlite")) as index:
                stem = key.removeprefix("segments/").removesuffix(".zarr.zip")
                found = index.execute("SELECT leaving, upload_until > unixepoch() FROM intents WHERE stem = ?", [stem])
                named.append(found.fetchone())
        return create(self, key, pieces)

    monkeypatch.setattr(bucket.Bucket, "create", create_named)
    store = open_store(data, url)
    buffer = filled(store, 10)
    before = held(buffer)
    monkeypatch.setattr(store._index, "writing", _dying(store._index.writing))
    monkeypatch.setattr(ObjectSegments, "undo", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        buffer.push(encode_batch(records(20, first=50)))
    orphans = put(object_store, url)
    assert named == [(0, 1)] * len(orphans) != []
    store.release()
    monkeypatch.undo()
    use(object_store, monkeypatch)
    with open_store(data, url) as store:
        assert held(store.buffer("b")) == before
        settled(store)
        assert put(object_store, url) == orphans
    with closing(sqlite3.connect(data / "index.sqlite")) as index, index:
        index.execute("UPDATE intents SET upload_until = unixepoch() - 1 WHERE upload_until IS NOT NULL")
    with open_store(data, url) as store:
        settled(store)
        assert put(object_store, url) == set()
        assert held(store.buffer("b")) == before


def _dying(writing: Any) -> Any:
    """The transaction behind the uploads' own never begins."""
    begun = []

    def dying(*, counted: bool = True) -> Any:
        begun.append(counted)
        if len(begun) > 1:
            raise KeyboardInterrupt
        return writing(counted=counted)

    return dying


# Away


def test_while_the_object_store_is_away_what_is_here_goes_on_and_nothing_is_lost_or_left(
    data: Path, url: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "UPLOAD_SECONDS", 3.0)
    monkeypatch.setattr(objects, "_ALL_TRIES_SECONDS", 0.1)
    with open_store(data, url) as store:
        buffer = filled(store)
        before = held(buffer)
        with object_store.away():
            # What fits the open segment, what is copied, and deletions.
            buffer.push(encode_batch(records(1, first=200)))
            assert held(buffer)[:40] == before
            buffer.delete(list(range(1, 16)))
            with pytest.raises(StorageError, match=f"cannot write {url}") as caught:
                buffer.push(encode_batch(records(30, first=300)))
            assert caught.value.code == "storage_failed"
            assert [record.exemplar_id for record in held(buffer)] == list(range(16, 42))
            expect_loaded_state(buffer)
            wait_until(lambda: segments_of(store).orphans)
        buffer.push(encode_batch(records(30, first=300)))
        settled(store)
        assert put(object_store, url) == sealed(buffer)
        expect_loaded_state(buffer)
        after = held(buffer)
    with open_store(data, url) as store:
        assert held(store.buffer("b")) == after


def test_over_http_what_cannot_be_had_is_503_with_a_time_to_ask_again(
    data: Path, url: str, object_store: ObjectStore
) -> None:
    settings = {"segments": url, "segment_bytes": OPTIONS.segment_bytes}
    with running(data, **settings) as client:
        client.put("/v1/buffers/b", json=LIMITS)
        arrow = {"Content-Type": "application/vnd.apache.arrow.stream"}
        batch = encode_batch(records(20))
        assert client.post("/v1/buffers/b/exemplars", content=batch, headers=arrow).status_code == 200
    shutil.rmtree(data / "cache")
    with running(data, **settings) as client:
        with object_store.away():
            answer = client.post("/v1/buffers/b/sample", json={"batch_size": 15, "seed": 1})
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json()["code"] == "storage_failed"
            assert "geheim" not in answer.text
        assert client.post("/v1/buffers/b/sample", json={"batch_size": 15, "seed": 1}).status_code == 200


# What is refused


class _Forgetful(BaseHTTPRequestHandler):
    """Object stores as there are: one ignores conditions, one ranges."""

    kept: dict[str, bytes]
    conditional: bool

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        taken = self.conditional and self.headers.get("If-None-Match") == "*" and self.path in self.kept
        if not taken:
            self.kept[self.path] = data
        self._answer(412 if taken else 200)

    def do_GET(self) -> None:
        self._answer(200, self.kept[self.path]) if self.path in self.kept else self._answer(404)

    def do_POST(self) -> None:
        self._answer(200, b"<DeleteResult><Deleted><Key>x</Key></Deleted></DeleteResult>")

    def _answer(self, status: int, data: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (("ETag", '"1"'), ("Content-Length", str(len(data)))):
            self.send_header(name, value)
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(params=[False, True])
def forgetful(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    handler = type("Handler", (_Forgetful,), {"kept": {}, "conditional": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield request.param
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bucket_that_does_not_keep_what_is_needed_is_refused(data: Path, url: str, forgetful: bool) -> None:
    words = "does not answer ranges with 206" if forgetful else "does not honour conditional writes"
    with pytest.raises(StorageError, match=words):
        open_store(data, url)
    assert not (data / "segments.elsewhere").exists()


@pytest.mark.parametrize(
    "wrong", ["s3://key:geheim@bucket/x", "ftp://geheim/x", "s3://", "geheim", "s3://b/x?key=geheim"]
)
def test_an_address_that_is_none_is_refused_without_a_word_of_it(data: Path, wrong: str) -> None:
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        open_store(data, wrong)
    assert "geheim" not in str(caught.value)


def test_what_does_not_belong_together_is_refused(
    data: Path, url: str, object_store: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket"):
        open_store(tmp_path / "none", "s3://no-such-bucket/x")
    with open_store(data, url) as store:
        before = held(filled(store, 20))
        shutil.copy(data / "index.sqlite", tmp_path / "older.sqlite")
    with pytest.raises(StorageError, match="are of another store"):
        open_store(tmp_path / "other", url)
    with pytest.raises(StorageError, match=f"of the store in .* are in {url}"):
        open_store(data, object_store.new_prefix())
    with pytest.raises(StorageError, match=f"of the store in .* are in {url}"):
        Store(data)
    for given in [["verify", data], ["repair", data], ["backup", data, tmp_path / "copy"], ["inspect", data]]:
        status, _, err = command(*map(str, given))
        assert (status, f"are in {url}" in err) == (2, True), err
    with open_store(data, url) as store:
        assert held(store.buffer("b")) == before
        store.buffer("b").push(encode_batch(records(20, first=70)))
    (tmp_path / "restored").mkdir()
    shutil.copy(tmp_path / "older.sqlite", tmp_path / "restored" / "index.sqlite")
    with pytest.raises(StorageError, match=f"is older than the segments in {url}"):
        open_store(tmp_path / "restored", url)
    with Store(tmp_path / "files") as store:
        filled(store, 1)
    with pytest.raises(StorageError, match="has segment files of its own"):
        open_store(tmp_path / "files", object_store.new_prefix())


def test_a_missing_object_is_said_at_the_start(data: Path, url: str, object_store: ObjectStore) -> None:
    with open_store(data, url) as store:
        key = min(sealed(filled(store)))
    object_store.delete(url, key)
    shutil.rmtree(data / "cache")
    with pytest.raises(StorageError, match=f"1 of 3 segments are missing from {url}"):
        open_store(data, url)


# A service


def test_a_service_over_it_survives_a_kill_and_gives_batches_over_a_socket_as_bytes(
    data: Path, url: str, object_store: ObjectStore, tmp_path: Path
) -> None:
    arguments = ("--segments", url, "--cache", str(tmp_path / "copies"), "--cache-bytes", "2000000")
    socket = tmp_path / "s"
    service = ServiceProcess(data, *arguments, environment=object_store.environment)
    with MemoryClient(service.url) as client:
        buffer = client.create_buffer("b", **LIMITS)
        buffer.push(records(40))
        drawn = buffer.sample(16, seed=3).records
    service.kill()
    with (
        ServiceProcess(data, *arguments, "--uds", str(socket), environment=object_store.environment) as service,
        MemoryClient(f"unix://{socket}") as client,
    ):
        assert client.buffer("b").sample(16, seed=3).records == drawn
    assert (tmp_path / "copies").is_dir()
    assert not (data / "segments").exists()


def test_records_are_not_lent_as_files(data: Path, url: str) -> None:
    with open_store(data, url) as store, pytest.raises(NotLentError, match="it lies in no files"):
        filled(store).lend(SampleRequest(3, seed=1))
