"""Files of the service that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from memory_service.store.segments import files


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
