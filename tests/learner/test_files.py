"""Files appear whole or not at all, and one that was damaged later is named."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from client.files import DamagedFileError, replacing, write_atomically
from learner.run import checkpoint


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: the file's content, its name, the folder that holds the name."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        assert not target.exists()
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    writers: dict[str, Callable[[Path], None]] = {
        "plain": lambda path: write_atomically(path, b"words"),
        "checkpoint.pt": lambda path: checkpoint.save(path, {"key": "a"}),
    }
    for name, write in writers.items():
        done.clear()
        write(tmp_path / "new" / name)
        assert done == ["file", "name", "folder"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["checkpoint.pt", "plain"]


def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"key": "a", "step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*checkpoint\.pt: No space left on device"):
        checkpoint.save(path, {"key": "a", "step": 2})
    assert checkpoint.load(path, "a") == {"key": "a", "step": 1}
    assert list(tmp_path.iterdir()) == [path]


def _fail_after(file: BinaryIO) -> None:
    file.write(b"half")
    raise RuntimeError("cannot go on")


def test_what_ends_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot go on"), replacing(tmp_path / "half") as file:
        _fail_after(file)
    assert list(tmp_path.iterdir()) == []


def _flipped(data: bytes) -> bytes:
    tensor = data.index(torch.arange(50.0).numpy().tobytes())
    return data[: tensor + 100] + bytes([data[tensor + 100] ^ 1]) + data[tensor + 101 :]


DAMAGE: dict[str, Any] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "all but one byte": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "zeros at its end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "a bit": _flipped,
    "a picture": lambda data: b"GIF89a" + bytes(3000),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named(how: str, tmp_path: Path) -> None:
    path = tmp_path / "base.pt"
    checkpoint.save(path, {"key": "a", "weights": torch.arange(50.0)})
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(DamagedFileError, match=r"base\.pt is damaged \(.+\)"):
        checkpoint.load(path, "a")


def test_another_programs_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "base.pt"
    torch.save(torch.arange(3), path)
    with pytest.raises(DamagedFileError, match="it holds a Tensor"):
        checkpoint.load(path, "a")
    torch.save({"state_dict": {}}, path)
    assert checkpoint.load(path, "a") is None


def test_built_data_needs_no_torch() -> None:
    """One of the largest imports there is, for a file written whole."""
    code = "import sys, learner.data.assemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
