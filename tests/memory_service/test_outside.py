"""Verify, inspect and backup of stores whose index is in PostgreSQL, or whose segments are objects."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_format import Record, StorageError, decode_batch, encode_batch
from memory_service.cli import main
from memory_service.http.app import create_app
from memory_service.settings import Settings
from memory_service.store import Buffer, Store
from memory_service.store.admin.inspect import inspect
from memory_service.store.admin.migrate import migrate
from memory_service.store.admin.verify import verify
from memory_service.store.directory import Places, open_local
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.transfer.backup import backup
from tests.memory_service.conftest import URL
from tests.memory_service.helpers import command
from tests.memory_service.places import PAIRS, NewPlaces, Pair, big_records, options_of
from tests.objects import ObjectStore

OPTIONS = Options(segment_bytes=300_000)
"""A segment of 15 records is full, and is sealed."""


@pytest.fixture(params=PAIRS[1:])
def pair(request: pytest.FixtureRequest) -> Pair:
    given: Pair = request.param
    return given


@pytest.fixture
def new_places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NewPlaces:
    return NewPlaces(request, monkeypatch)


@pytest.fixture
def places(pair: Pair, new_places: NewPlaces) -> Places:
    return new_places(pair)


@pytest.fixture
def served(data: Path, places: Places) -> Iterator[Store]:
    """Sealed segments and open ones, dead records, a snapshot, a fork."""
    store = Store(data, OPTIONS, open_ports=places)
    buffer, _ = store.create_buffer("b", budget_bytes=900_000, disk_limit_bytes=20_000_000)
    buffer.push(encode_batch(big_records(40)))
    buffer.take_snapshot("first")
    store.fork("b", "f", snapshot="first")
    buffer.push(encode_batch(big_records(18, first=40)), idempotency_key="once")
    yield store
    with suppress(OSError):
        # Unless the test has.
        store.release()


def held(buffer: Buffer) -> list[Record]:
    return decode_batch(bytes(buffer.query_encoded(Query(limit=1000))[0]))


def everything(buffer: Buffer) -> tuple[Any, ...]:
    page = Query(limit=1000)
    of_snapshots = [bytes(buffer.query_encoded(page, snapshot=mark.name)[0]) for mark in buffer.snapshots()]
    drawn = bytes(buffer.sample(SampleRequest(9, seed=5))[0])
    return buffer.stats(), bytes(buffer.query_encoded(page)[0]), of_snapshots, drawn


def test_a_store_in_use_is_verified_inspected_and_backed_up(
    served: Store, places: Places, data: Path, tmp_path: Path
) -> None:
    before = everything(served.buffer("b"))
    report = verify(data, places)
    assert report.sound, report.problems
    assert report.buffers == {buffer.name: buffer.stats().num_records for buffer in served.buffers()}
    assert report.records >= report.buffers["b"] > 40
    found = inspect(data, places)
    assert (found.served, found.segments, found.open_segments) == (True, report.segments, 1)
    assert found.index_bytes > 10_000
    assert [one.stats.num_records for one in found.buffers] == [report.buffers["b"], report.buffers["f"]]
    assert found.buffers[0].last_written is not None
    segments, _ = backup(data, tmp_path / "copy", places)
    assert segments == report.segments
    assert everything(served.buffer("b"))[1:] == before[1:]
    # A store of its own, whole: of a directory alone.
    copied = verify(tmp_path / "copy")
    assert copied.sound, copied.problems
    assert copied.buffers == report.buffers
    with Store(tmp_path / "copy", OPTIONS) as store:
        copy = store.buffer("b")
        assert everything(copy)[1:] == before[1:]
        assert copy.push(encode_batch(big_records(18, first=40)), idempotency_key="once").replayed
        copy.push(encode_batch(big_records(20, first=200)))
    assert verify(tmp_path / "copy").sound


def test_a_store_that_nobody_serves(served: Store, places: Places, data: Path) -> None:
    """Killed, and after a clean end; the environment names its places where the directory does not have it."""
    buffers = {buffer.name: buffer.stats().num_records for buffer in served.buffers()}
    served.release()
    report = verify(data, places)
    assert (report.sound, report.buffers) == (True, buffers), report.problems
    with Store(data, OPTIONS, open_ports=places):
        pass
    assert verify(data, places).buffers == buffers
    status, said, err = command("verify", str(data), "--json", *options_of(places))
    assert (status, json.loads(said)["buffers"]) == (0, buffers), err
    status, said, err = command("inspect", str(data), *options_of(places))
    assert (status, "not served" in said) == (0, True), err
    status, _, err = command("verify", str(data))
    assert (status, "name it, --" in err) == (2, True), err
    status, _, err = command("repair", str(data))
    assert (status, "`memory-service repair` works on a directory alone" in err) == (2, True), err


def test_the_environment_is_of_the_store_that_is_served_here(
    served: Store, places: Places, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(data, tmp_path / "copy", places)
    for name, url in (("INDEX", places.index), ("SEGMENTS", places.segments)):
        if url is not None:
            monkeypatch.setenv(f"MEMORY_SERVICE_{name}", url)
    for store in (data, tmp_path / "copy"):
        assert main(["inspect", str(store)]) == 0
    assert main(["export", "b", str(tmp_path / "b.zip"), "--data", str(tmp_path / "copy")]) == 0


def test_a_backup_over_http_is_a_store_of_a_directory(served: Store, places: Places, tmp_path: Path) -> None:
    settings = Settings(data=served.data, segments=places.segments)
    with TestClient(create_app(settings, served), URL) as client:
        answer = client.get("/v1/backup")
    assert answer.status_code == 200
    (tmp_path / "copy.tar").write_bytes(answer.content)
    with tarfile.open(tmp_path / "copy.tar") as archive:
        archive.extractall(tmp_path / "copy", filter="data")
    assert verify(tmp_path / "copy").sound
    with Store(tmp_path / "copy", OPTIONS) as store:
        assert everything(store.buffer("b"))[1:] == everything(served.buffer("b"))[1:]


@pytest.mark.parametrize("pair", ["objects"])
def test_damage_to_objects_is_found(
    served: Store, places: Places, data: Path, object_store: ObjectStore, tmp_path: Path
) -> None:
    url = str(places.segments)
    first, second = sorted(key for key in object_store.keys(url) if key.startswith("segments/"))[:2]
    sound = object_store.get(url, first)
    object_store.put(url, first, sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    assert {problem.kind for problem in verify(data, places).problems} == {"damaged_record"}
    object_store.put(url, first, sound[:-1])
    assert {problem.kind for problem in verify(data, places).problems} == {"damaged_segment"}
    object_store.put(url, first, sound)
    object_store.delete(url, second)
    object_store.put(url, f"segments/{'0' * 32}.zarr.zip", b"whatever")
    object_store.put(url, "segments/readme.txt", b"whatever")
    report = verify(data, places)
    assert {(problem.kind, problem.where) for problem in report.problems} == {
        ("missing_segment", second.removeprefix("segments/").removesuffix(".zarr.zip")),
        ("orphan", f"{'0' * 32}.zarr.zip"),
    }
    assert report.foreign == ["readme.txt"]
    # What is missing shows as such, not as a store that changes.
    with pytest.raises(StorageError, match="is missing"):
        backup(data, tmp_path / "copy", places)
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.partial").exists()


@pytest.mark.parametrize("pair", ["both"])
def test_a_damaged_store_is_repaired_in_a_directory_and_moved_back(
    served: Store, places: Places, data: Path, object_store: ObjectStore, tmp_path: Path, new_places: NewPlaces
) -> None:
    before = {record.exemplar_id: record for record in held(served.buffer("b"))}
    served.release()
    url = str(places.segments)
    first, second = sorted(key for key in object_store.keys(url) if key.startswith("segments/"))[:2]
    content = object_store.get(url, first)
    object_store.put(url, first, content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    object_store.delete(url, second)
    for arguments in (["backup", str(data), str(tmp_path / "copy")], ["repair", str(data)]):
        status, _, err = command(*arguments, *(options_of(places) if arguments[0] == "backup" else []))
        assert (status, "--damaged" in err) == (2, True), err
    status, _, err = command("backup", str(data), str(tmp_path / "copy"), "--damaged", *options_of(places))
    assert status == 0, err
    status, said, err = command("repair", str(tmp_path / "copy"), "--json")
    lost = json.loads(said)["lost"]["b"]
    assert (status, len(lost)) == (0, 1), err
    moved = new_places("both")
    assert migrate(tmp_path / "copy", open_local, tmp_path / "again", moved).complete
    assert verify(tmp_path / "again", moved).sound
    with Store(tmp_path / "again", OPTIONS, open_ports=moved) as store:
        found = {record.exemplar_id: record for record in held(store.buffer("b"))}
    # A segment that is missing says no ids.
    assert 20 < len(found) < len(before) - 1
    assert not found.keys() & set(lost)
    assert found == {id_: before[id_] for id_ in found}


@pytest.mark.parametrize("pair", ["objects", "both"])
def test_objects_and_an_index_that_do_not_belong_together(
    served: Store, places: Places, data: Path, object_store: ObjectStore
) -> None:
    served.close()
    url = str(places.segments)
    marker = json.loads(object_store.get(url, "store.json"))
    object_store.put(url, "store.json", json.dumps({**marker, "changes": 10**6}).encode())
    assert {problem.kind for problem in verify(data, places).problems} == {"older_index"}
    object_store.put(url, "store.json", json.dumps({**marker, "store_id": "0" * 32}).encode())
    assert "foreign_index" in {problem.kind for problem in verify(data, places).problems}
    with pytest.raises(StorageError, match="of another store"):
        inspect(data, places)


@pytest.mark.parametrize("pair", ["objects", "both"])
def test_a_wrong_place_of_segments_is_left_as_it_was(
    served: Store, places: Places, data: Path, tmp_path: Path, object_store: ObjectStore
) -> None:
    served.close()
    # Whoever knows where the segments are is told; here it is another machine's directory.
    if places.index is None:
        (data / "segments.elsewhere").unlink()
    else:
        data = tmp_path / "elsewhere"
    wrong = object_store.new_prefix()
    for _ in range(2):
        with pytest.raises(StorageError, match=f"missing from {wrong}"):
            Store(data, OPTIONS, open_ports=replace(places, segments=wrong))
        assert object_store.keys(wrong) == set()
    with Store(data, OPTIONS, open_ports=places) as store:
        assert {buffer.name for buffer in store.buffers()} == {"b", "f"}


def test_what_is_not_there_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    for name in ("verify", "inspect"):
        status, _, err = command(name, str(tmp_path), "--segments", f"file://{tmp_path}/objects")
        assert (status, list(tmp_path.iterdir())) == (2, []), err
