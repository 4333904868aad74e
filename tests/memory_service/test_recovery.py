"""What a start refuses, what a repair makes again, and what both cost."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from memory_format import StorageError, decode_batch, encode_batch
from memory_format.api.terms import MAX_BUDGET_BYTES
from memory_format.header import HEADER_DTYPE
from memory_service.store import Buffer, Store
from memory_service.store.admin.repair import repair
from memory_service.store.admin.verify import verify
from memory_service.store.index.generation import read_mark
from memory_service.store.pure.model import Budget, BufferConfig, Options
from memory_service.store.pure.query import Query
from memory_service.store.segments import files
from memory_service.store.segments.layout import frame_bytes, read_contents, seal_frame
from memory_service.store.segments.owner import ATTRIBUTE, owner_of
from tests.memory_service.helpers import make_exemplar, reading

OPTIONS = Options(segment_bytes=300_000)
INDEX = ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm")


def push(buffer: Buffer, class_id: int, *, number: int = 8, pad: int = 20_000, first: int = 0) -> None:
    ranks = range(first, first + number)
    buffer.push(encode_batch([make_exemplar(class_id, rank, pad=pad, seed=99 * class_id + rank) for rank in ranks]))


def fill(data: Path, **settings: object) -> None:
    with Store(data, OPTIONS) as store:
        buffer, _ = store.create_buffer("b", **{"budget_bytes": 9_000_000, **settings})  # type: ignore[arg-type]
        for class_id in range(6):
            push(buffer, class_id)


def bodies(data: Path, name: str = "b") -> dict[int, bytes]:
    store = Store(data, OPTIONS)
    try:
        encoded, _, _ = store.buffer(name).query_encoded(Query(limit=1000))
        return {record.exemplar_id: record.body for record in decode_batch(bytes(encoded))}
    finally:
        store.release()


def lose_index(data: Path) -> None:
    for name in INDEX:
        (data / name).unlink(missing_ok=True)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, in order."""
    noted = []
    sync, sync_directory = files.sync, files.sync_directory

    def noting(descriptor: int) -> None:
        noted.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.rpartition(".")[2])
        sync(descriptor)

    def noting_directory(path: Path) -> None:
        noted.append("directory")
        sync_directory(path)

    monkeypatch.setattr(files, "sync", noting)
    monkeypatch.setattr(files, "sync_directory", noting_directory)
    return noted


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file a descriptor is of")
def test_a_push_waits_for_no_more_syncs_than_before(data: Path, syncs: list[str]) -> None:
    with Store(data, OPTIONS) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=9_000_000)
        # A start makes its mark durable.
        assert syncs == ["generation", "directory"]
        syncs.clear()
        push(buffer, 0, number=1)
        # A new file is of a generation that is durable; SQLite's own syncs are not seen here.
        assert syncs == ["generation", "open", "directory"]
        syncs.clear()
        for class_id in range(1, 6):
            push(buffer, class_id, number=1)
            assert syncs == ["open"]
            syncs.clear()
            mark = read_mark(data / "generation")
            with reading(data) as index:
                assert mark is not None
                assert (mark.store_id, mark.changes) == index.execute("SELECT store_id, changes FROM store").fetchone()
        store.close = lambda: None  # type: ignore[method-assign]
        Store.close(store)
        assert "generation" in syncs


def test_a_start_without_its_index_is_refused_in_words(data: Path) -> None:
    fill(data)
    lose_index(data)
    before = sorted(path.name for path in data.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "memory_service", "serve", "--data", str(data), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "has no index" in done.stderr
    assert "memory-service repair" in done.stderr
    assert sorted(path.name for path in data.rglob("*")) == before
    with pytest.raises(StorageError, match="has no index"):
        verify(data)


def test_an_index_is_made_again_with_settings_and_records(data: Path) -> None:
    fill(data, eviction="fifo", retain_snapshots=3, disk_limit_bytes=40_000_000)
    before = bodies(data)
    with Store(data, OPTIONS) as store:
        version, next_id = store.buffer("b").state.columns.version, store.buffer("b").state.next_id
    lose_index(data)
    report = repair(data)
    assert (report.made, report.recovered) == (["b"], {"b": len(before)})
    assert any("evicted or deleted" in words for words in report.unknown)
    assert bodies(data) == before
    with Store(data, OPTIONS) as store:
        buffer = store.buffer("b")
        config = buffer.config
        assert (config.eviction, config.retain_snapshots, config.given_disk_limit) == ("fifo", 3, 40_000_000)
        assert config.budget.budget_bytes == 9_000_000
        assert buffer.state.columns.version > version
        assert buffer.state.next_id > next_id
        assert buffer.state.classes == set(range(6))
    # Again, and nothing is taken in twice.
    assert repair(data).recovered == {}
    assert bodies(data) == before


def test_names_of_classes_are_back(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=2_000_000)
        push(buffer, 0)
        buffer.name_classes(["cat", "dog"], [0, 7])
        store.fork("b", "fork")
        gone, _ = store.create_buffer("gone", budget_bytes=1000)
        gone.name_classes(["owl"])
        store.delete_buffer("gone")
        assert sorted(path.name for path in (data / "names").iterdir()) == ["b.json", "fork.json"]
        buffer.name_classes(["emu"])
    lose_index(data)
    repair(data)
    with Store(data) as store:
        assert store.buffer("b").state.names == {0: "cat", 7: "dog", 1: "emu"}
        # One of another time under the same name has none of them.
        store.delete_buffer("b")
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=2_000_000)
        assert buffer.state.names == {}


def test_an_older_index_keeps_what_it_says_and_gets_what_is_newer(data: Path) -> None:
    fill(data)
    older = {name: (data / name).read_bytes() for name in INDEX if (data / name).exists()}
    with Store(data, OPTIONS) as store:
        store.buffer("b").update([1], scores=[0.5])
        push(store.buffer("b"), 7)
        store.create_buffer("c", budget_bytes=9_000_000)
        push(store.buffer("c"), 8, number=16)
    newest, other = bodies(data), bodies(data, "c")
    lose_index(data)
    for name, content in older.items():
        (data / name).write_bytes(content)
    with pytest.raises(StorageError, match=r"is older than its segment files: it has seen \d+ changes") as caught:
        Store(data, OPTIONS)
    assert caught.value.details["standing"] == "older"
    assert "older_index" in {problem.kind for problem in verify(data).problems}
    report = repair(data)
    assert report.recovered == {"b": 8, "c": len(other)}
    assert (bodies(data), bodies(data, "c")) == (newest, other)
    assert verify(data).sound


def test_a_budget_holds_after_a_recovery(data: Path) -> None:
    """Records that were evicted are in the files still: the policy chooses again."""
    budget = 30 * make_exemplar(pad=20_000).charge
    with Store(data, OPTIONS) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=budget, eviction="fifo", disk_limit_bytes=9_000_000)
        for class_id in range(8):
            push(buffer, class_id)
    before = bodies(data)
    lose_index(data)
    report = repair(data)
    assert report.evicted["b"]
    assert bodies(data) == before
    assert verify(data).sound


def test_the_disk_limit_holds_after_a_recovery(data: Path, tmp_path: Path) -> None:
    """Files of what was evicted are back: segments are rewritten until they fit."""
    budget = 30 * make_exemplar(pad=20_000).charge
    with Store(data, OPTIONS) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=budget, eviction="fifo", disk_limit_bytes=budget + 500_000)
        for class_id in range(16):
            push(buffer, class_id)
            shutil.copytree(data / "segments", tmp_path / "all", dirs_exist_ok=True)
    before = bodies(data)
    # There is no room to seal the last few: what is in an open segment is known to the index alone.
    paths = (data / "segments").glob("*.zarr.zip")
    sealed = {id_ for path in paths for id_ in read_contents(path).headers["exemplar_id"].tolist()}
    for path in (tmp_path / "all").glob("*.zarr.zip"):
        if not (data / "segments" / path.name).exists():
            shutil.copy(path, data / "segments")
    lose_index(data)
    repair(data)
    assert verify(data).sound
    assert len(sealed & set(before)) > 20
    after = bodies(data)
    assert all(after[id_] == body for id_, body in before.items() if id_ in sealed)


def test_copies_of_a_segment_count_once(data: Path) -> None:
    fill(data)
    lose_index(data)
    for number, path in enumerate(sorted((data / "segments").iterdir())):
        # As a store of an earlier version has them: they do not say whose they are.
        rewrite_without_owner(path)
        if number:
            shutil.copy(path, path.with_name(f"{number:032x}.zarr.zip"))
    report = repair(data)
    assert report.made == ["recovered-1"]
    assert len(bodies(data, "recovered-1")) == 48
    with Store(data, OPTIONS) as store:
        config = store.buffer("recovered-1").config
        assert config.eviction == "reject"
        assert "do not say whose" in config.description
    assert verify(data).sound


def rewrite_without_owner(path: Path) -> None:
    contents = read_contents(path)
    headers = np.zeros(len(contents.headers), HEADER_DTYPE)
    for name in HEADER_DTYPE.names or ():
        headers[name] = contents.headers[name] - (contents.headers["offset"][0] if name == "offset" else 0)
    content = path.read_bytes()
    start, total = int(contents.headers["offset"][0]), int(contents.lengths.sum())
    body = content[start : start + total]
    first, tail = seal_frame(headers, contents.learners, total, zlib.crc32(body))
    path.write_bytes(first + body + tail)


def test_nameless_segments_are_grouped_so_that_no_id_comes_twice(data: Path) -> None:
    with Store(data, OPTIONS) as store:
        for number, name in enumerate("ab"):
            buffer, _ = store.create_buffer(name, budget_bytes=9_000_000)
            for class_id in range(3):
                push(buffer, class_id + 3 * number)
    held = {**{("a", *item): None for item in bodies(data, "a").items()}}
    both = set(bodies(data, "a").values()) | set(bodies(data, "b").values())
    assert len(held) == 24
    lose_index(data)
    for path in (data / "segments").iterdir():
        rewrite_without_owner(path)
    report = repair(data)
    assert len(report.made) == 2
    found = [bodies(data, name) for name in report.made]
    assert set().union(*(one.values() for one in found)) == both
    assert sum(map(len, found)) == 48


def test_what_the_index_does_not_know_goes_to_quarantine_and_comes_back(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Index and generation put back together: nothing says that the segments are newer."""
    fill(data)
    backup = {name: (data / name).read_bytes() for name in (*INDEX, "generation") if (data / name).exists()}
    with Store(data, OPTIONS) as store:
        for class_id in range(7, 14):
            push(store.buffer("b"), class_id)
    newest = bodies(data)
    lose_index(data)
    for name, content in backup.items():
        (data / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert len(bodies(data)) == 48
    assert "the index does not know it" in caplog.text
    assert list((data / "quarantine").iterdir())
    repair(data)
    assert bodies(data) == newest
    assert not list((data / "quarantine").iterdir())


def test_only_its_own_files_are_removed_from_incoming(data: Path) -> None:
    fill(data)
    incoming = data / "incoming"
    (incoming / ("0" * 32)).write_bytes(b"half an upload")
    (incoming / ("1" * 32)).mkdir()
    (incoming / "mine.zarr.zip").write_bytes(b"put here by hand")
    Store(data, OPTIONS).close()
    assert [path.name for path in incoming.iterdir()] == ["mine.zarr.zip"]


def test_segments_say_whose_they_are_and_the_same_ones_the_same(data: Path) -> None:
    fill(data, eviction="fifo")
    paths = sorted((data / "segments").iterdir())
    for path in paths:
        said = read_contents(path).attributes[ATTRIBUTE]
        assert (said["name"], said["eviction"], said["budget_bytes"]) == ("b", "fifo", 9_000_000)
        assert 1 <= said["version"] <= 6
        assert said["next_exemplar_id"] > int(read_contents(path).headers["exemplar_id"].max())
    # Sealed again in the same state: to the byte.
    contents = paths[0].read_bytes()
    rewritten = read_contents(paths[0])
    assert json.dumps(rewritten.attributes[ATTRIBUTE], separators=(",", ":")).encode() in contents


def test_what_a_segment_says_of_its_buffer_is_within_the_bound_of_its_frame() -> None:
    budget = Budget(None, 2**31 - 1, MAX_BUDGET_BYTES // 2**31, None, MAX_BUDGET_BYTES)
    config = BufferConfig(
        id=1,
        name="n" * 63,
        budget=budget,
        budget_bytes=MAX_BUDGET_BYTES,
        eviction="class_balanced",
        description="",
        created_at=1.7976931348623157e308,
        given_disk_limit=2 * MAX_BUDGET_BYTES,
        retain_snapshots=2**63 - 1,
        draw_key="k" * 63,
    )
    owner = owner_of(config, 2**63 - 1, 2**63 - 1)
    headers = np.zeros(65_536, HEADER_DTYPE)
    _, tail = seal_frame(headers, ["l" * 64], 2**32 - 1, 2**32 - 1, owner)
    assert len(tail) <= frame_bytes(65_536, ["l" * 64])
