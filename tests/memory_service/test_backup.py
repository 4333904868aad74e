"""Copies of a store in use: whole, of one moment, and with all that was acknowledged before."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import BusyError, FormatError, StorageError, encode_batch
from memory_service.store import Store
from memory_service.store.admin.verify import verify
from memory_service.store.index.outside import IndexFile
from memory_service.store.pure.model import Options
from memory_service.store.transfer import backup as backups
from memory_service.store.transfer.backup import backup
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    Server,
    all_records,
    assert_problem,
    command,
    contents,
    make_exemplar,
    push,
    put_buffer,
    whole_state,
)

OPTIONS = Options(segment_bytes=300_000)


def filled(data: Path) -> Store:
    """Sealed segments and open ones, dead records, a snapshot, a fork."""
    store = Store(data, OPTIONS)
    buffer, _ = store.create_buffer("b", budget_bytes=700_000, disk_limit_bytes=8_000_000)
    for phase in range(6):
        buffer.push(encode_batch([make_exemplar(phase, rank, pad=20_000, seed=99 * phase + rank) for rank in range(8)]))
        if phase == 3:
            buffer.take_snapshot("third")
            store.fork("b", "f", snapshot="third")
    buffer.push(encode_batch([make_exemplar(7, 0)]), idempotency_key="once")
    return store


def test_a_copy_of_a_store_in_use_is_that_store(tmp_path: Path) -> None:
    data, copy = tmp_path / "store", tmp_path / "copy"
    store = filled(data)
    try:
        files = sorted(path.name for path in (data / "segments").iterdir())
        assert {Path(name).suffix for name in files} == {".zip", ".open"}
        segments, num_bytes = backup(data, copy)
        assert sorted(path.name for path in (copy / "segments").iterdir()) == files
        assert segments == len(files)
        assert num_bytes == sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
        # Not the same files: damage to one is none to the other.
        assert all(path.stat().st_nlink == 1 for path in (data / "segments").iterdir())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "store"]
        assert {path.stat().st_mode & 0o077 for path in [copy, *copy.rglob("*")]} == {0}
        assert whole_state(copy) == whole_state(data)
    finally:
        store.release()
    assert verify(copy).sound
    with Store(copy, OPTIONS) as opened:
        assert opened.buffer("b").push(encode_batch([make_exemplar(7, 0)]), idempotency_key="once").replayed
        assert [snapshot.name for snapshot in opened.buffer("b").snapshots()] == ["third"]


def test_a_store_that_nobody_serves_and_one_that_is_not_there(tmp_path: Path) -> None:
    data = tmp_path / "store"
    filled(data).close()
    backup(data, tmp_path / "copy")
    assert verify(tmp_path / "copy").sound
    with pytest.raises(StorageError, match="no store"):
        backup(tmp_path / "nothing", tmp_path / "other")
    for name in ("copy", "left"):
        (tmp_path / "left.partial").mkdir(exist_ok=True)
        with pytest.raises(FormatError, match="exists already"):
            backup(data, tmp_path / name)
    # Where it would go with the store; what lies in incoming/ goes with the next start.
    for place in (data / "copy", data / "incoming" / "copy"):
        with pytest.raises(FormatError, match=r"/copy is in file://.*/store$"):
            backup(data, place)
        assert not place.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "left.partial", "store"]


def test_a_file_that_goes_while_it_is_copied_begins_another_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each file that is copied, all that the buffer held is replaced."""
    data = tmp_path / "store"
    store = filled(data)
    copied: list[bool] = []
    copy_segment = backups._copy_segment

    def slowly(*arguments: Any) -> bool:
        turn = len(copied)
        if turn == 1:
            store.buffer("b").drop_snapshot("third")
            store.delete_buffer("f")
        if turn < 5:
            held = store.buffer("b").state.columns["exemplar_id"].tolist()
            store.buffer("b").delete(held)
            new = [make_exemplar(9, rank, pad=20_000, seed=turn * 100 + rank) for rank in range(34)]
            store.buffer("b").push(encode_batch(new))
        copied.append(copy_segment(*arguments))
        return copied[-1]

    monkeypatch.setattr(backups, "_copy_segment", slowly)
    backup(data, tmp_path / "copy")
    assert False in copied
    store.release()
    report = verify(tmp_path / "copy")
    assert report.sound, report.problems
    assert report.buffers == verify(data).buffers


def test_a_store_that_outruns_the_copy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "store").close()
    monkeypatch.setattr(backups, "_copy_segment", lambda *_: False)
    monkeypatch.setattr(IndexFile, "names_segment", lambda *_: False)
    with pytest.raises(StorageError, match="faster than it can be copied"):
        backup(tmp_path / "store", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_segment_cut_short_is_not_backed_up_in_silence(tmp_path: Path) -> None:
    data = tmp_path / "store"
    filled(data).close()
    path = next((data / "segments").iterdir())
    os.truncate(path, 1000)
    with pytest.raises(StorageError, match="has 1000 bytes, the index says"):
        backup(data, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


class Load:
    """Pushes that evict, snapshots and forks that come and go, from several threads, until it is left.

    Args:
        pause: seconds between two pushes of a thread: the processors are for others, too.
    """

    def __init__(self, url: str, pause: float = 0.02) -> None:
        self._url = url
        self._pause = pause
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(3)]
        self.acknowledged: dict[str, int] = {}
        """Buffer -> version of the last push that was answered."""
        self.errors: list[str] = []

    def _work(self, number: int) -> None:
        name = f"load-{number}"
        with httpx.Client(base_url=self._url, timeout=30) as client:
            put_buffer(client, 1_000_000, buffer=name, eviction="fifo", disk_limit_bytes=4_000_000)
            turn = 0
            while not self._ending.wait(self._pause):
                turn += 1
                batch = [make_exemplar(turn % 5, rank, pad=20_000, seed=turn * 10 + rank) for rank in range(8)]
                response = client.post(
                    f"/v1/buffers/{name}/exemplars",
                    content=encode_batch(batch),
                    headers={"Content-Type": "application/vnd.apache.arrow.stream"},
                )
                if response.status_code not in (200, 507):
                    self.errors.append(response.text)
                elif response.status_code == 200:
                    self.acknowledged[name] = response.json()["version"]
                if turn % 7 == 0:
                    client.put(f"/v1/buffers/{name}/snapshots/s")
                if turn % 7 == 3:
                    client.delete(f"/v1/buffers/{name}/snapshots/s")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        while len(self.acknowledged) < len(self._threads) and not self.errors:
            threading.Event().wait(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def assert_holds(copy: Path, acknowledged: dict[str, int], kept: list[tuple[int, int, bytes]]) -> None:
    report = verify(copy)
    assert report.sound, report.problems
    with running(copy) as client:
        for name, version in acknowledged.items():
            assert client.get(f"/v1/buffers/{name}").json()["version"] >= version
        assert contents(all_records(client, buffer="kept")) == kept


def test_copies_under_load(data: Path, tmp_path: Path) -> None:
    """From the command line and over HTTP, while pushes evict, segments are rewritten and snapshots come and go."""
    with Server(data) as server, server.client() as client:
        put_buffer(client, 500_000, buffer="kept")
        push(client, [make_exemplar(0, rank, pad=20_000) for rank in range(10)], buffer="kept")
        kept = contents(all_records(client, buffer="kept"))
        url = str(client.base_url)
        copies = []
        with Load(url) as load:
            for turn in range(2):
                before = dict(load.acknowledged)
                copy = tmp_path / f"command-{turn}"
                code, said, error = command("backup", str(data), str(copy))
                assert code == 0, error
                assert f"{copy}: " in said
                copies.append((copy, before))
                before = dict(load.acknowledged)
                response = client.get("/v1/backup")
                assert response.status_code == 200, response.text
                assert response.headers["content-type"] == "application/x-tar"
                assert int(response.headers["content-length"]) == len(response.content)
                copy = tmp_path / f"http-{turn}"
                with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
                    archive.extractall(copy, filter="data")
                copies.append((copy, before))
        assert load.errors == []
        assert list((data / "incoming").iterdir()) == []
        for copy, before in copies:
            assert_holds(copy, before, kept)
            shutil.rmtree(copy)


def test_the_command_refuses_in_words(tmp_path: Path) -> None:
    code, _, error = command("backup", str(tmp_path / "nothing"), str(tmp_path / "copy"))
    assert (code, "no store" in error) == (2, True)
    filled(tmp_path / "store").close()
    code, _, error = command("backup", str(tmp_path / "store"), str(tmp_path))
    assert (code, "exists already" in error) == (2, True)


def test_one_archive_at_a_time_and_none_is_left(data: Path) -> None:
    store = filled(data)
    try:
        archive = store.archive()
        next(archive)
        with pytest.raises(BusyError):
            store.archive()
        # What is removed while it is read stays for it.
        store.delete_buffer("b")
        store.delete_buffer("f")
        assert list((data / "segments").iterdir()) == []
        assert sum(map(len, archive)) + 512 == archive.num_bytes
        archive.close()
        archive.close()
        assert list((data / "incoming").iterdir()) == []
        store.archive()
        # Nobody has read or closed that one.
        assert list((data / "incoming").iterdir()) == []
        store.archive().close()
    finally:
        store.release()


def test_a_backup_over_http_while_another_one_is_sent(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        archive = client.app.state.store.archive()  # type: ignore[attr-defined]
        assert_problem(client.get("/v1/backup"), "too_busy")
        archive.close()
        assert client.get("/v1/backup").status_code == 200


def test_a_backup_that_is_killed_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    data, copy = tmp_path / "store", tmp_path / "copy"
    filled(data).close()
    os.mkfifo(data / "segments" / "fifo")
    # A segment that never ends: the copy waits at it.
    victim = next(path for path in (data / "segments").iterdir() if path.suffix == ".zip")
    victim.unlink()
    os.rename(data / "segments" / "fifo", victim)
    process = subprocess.Popen([sys.executable, "-m", "memory_service", "backup", str(data), str(copy)])
    while not (tmp_path / "copy.partial" / "index.sqlite").exists():
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert not copy.exists()
