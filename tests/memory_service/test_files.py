"""Files of the service that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from memory_format import StorageError
from memory_service.store import Store
from memory_service.store.keys import KeyFile
from memory_service.store.segments import files
from tests.memory_service.conftest import running
from tests.memory_service.helpers import make_exemplar, push, put_buffer
from tests.memory_service.test_runs import put as put_run


def write(path: Path, content: bytes) -> None:
    with files.replacing(path) as descriptor:
        files.write_at(descriptor, [content], 0)


def test_a_file_is_there_once_it_is_on_the_disk_and_so_is_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> object:
            seen.append((name, path.read_bytes()))
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("fdatasync", "rename", "fsync"):
        watch(name)
    write(path, b"new")
    assert seen == [("fdatasync", b"old"), ("rename", b"old"), ("fsync", b"new")]
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["open", "pwritev", "fdatasync", "rename"])
def test_what_fails_leaves_what_was_there(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_crash_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / f".file.{os.getpid()}.tmp").write_bytes(b"half of it")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def fill(client: httpx.Client, data: Path) -> None:
    """Write each kind of file that takes another one's place."""
    put_buffer(client)
    push(client, [make_exemplar()])
    assert client.post("/v1/buffers/b/classes", json={"names": ["owl"]}).status_code == 200
    client.delete("/v1/buffers/b/exemplars/1?erase=true")
    put_run(client)
    KeyFile(data).make("read", 0.0)


def unfinished(data: Path) -> list[str]:
    return sorted(str(path.relative_to(data)) for path in data.rglob(".*.tmp"))


def _of_files_alone(flock: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """As NFS has it."""

    def call(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    return call


def test_a_start_clears_what_a_killed_process_left_unfinished(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *more: Path) -> None:
            if path.suffix == ".tmp":
                raise OSError(errno.EIO, "killed before this")
            real(path, *more)

        return call

    with running(data) as client, monkeypatch.context() as patched:
        for name in ("rename", "unlink"):
            patched.setattr(files, name, killed(getattr(files, name)))
        with pytest.raises(StorageError):
            fill(client, data)
    left = unfinished(data)
    assert {(Path(name).parent.name, Path(name).suffixes[0]) for name in left} == {
        (directory, ".json") for directory in ("", "names", "receipts", "runs")
    }
    with running(data) as client:
        assert unfinished(data) == []
        put_run(client)
        KeyFile(data).make("read", 0.0)
    kept = {path: path.read_bytes() for path in data.rglob("*.json")}
    assert len(kept) == 4
    others = [
        "runs/.r1.json.x.tmp",
        "runs/.R.json.1.tmp",
        "runs/r1.json.1.tmp",
        ".notes.json.1.tmp",
        "names/.b.txt.1.tmp",
    ]
    for name in others:
        (data / name).write_bytes(b"somebody's")
    (data / "runs" / ".folder.json.1.tmp").mkdir()
    (data / "runs" / ".link.json.1.tmp").symlink_to(tmp_path)
    for name in (".keys.json.1.tmp", ".index.elsewhere.1.tmp"):
        (data / name).write_bytes(b"half of it")
    # Who makes a key holds the directory, and no store: its file is not a killed process's.
    holder = os.open(data, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with Store(data):
        assert (data / ".keys.json.1.tmp").exists()
    os.close(holder)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", _of_files_alone(fcntl.flock))
        with Store(data):
            assert (data / ".keys.json.1.tmp").exists()
    with Store(data):
        assert unfinished(data) == sorted(
            [*others[:2], *others[3:], "runs/.folder.json.1.tmp", "runs/.link.json.1.tmp"]
        )
        assert (data / others[2]).exists()
    assert {path: path.read_bytes() for path in data.rglob("*.json") if path in kept} == kept
