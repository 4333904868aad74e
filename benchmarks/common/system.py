"""What the operating system knows: file systems, the page cache, memory and bytes written by a process."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

ROOT = Path(__file__).absolute().parents[2]
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")
CAN_FORGET = hasattr(os, "posix_fadvise")
START_SECONDS = 120
STOP_SECONDS = 20
_MADV_DONTNEED = 4


def file_system_of(path: Path) -> str:
    """Type of the file system that holds ``path``, ``unknown`` where nobody says."""
    target = path.resolve()
    found = ("", "unknown")
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    for line in mounts:
        # Blanks in a mount point are written in octal.
        point, kind = (part.replace("\\040", " ") for part in line.split()[1:3])
        if target.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def directory_on_disk() -> Path:
    """Where to measure unless told otherwise: the first usual place that is not kept in memory."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    on_disk = [place for place in places if place.is_dir() and file_system_of(place) not in MEMORY_FILE_SYSTEMS]
    return on_disk[0] if on_disk else places[0]


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE / 2**30, 1),
        "python": platform.python_version(),
    }


def available_memory() -> int:
    """Bytes that can be had without swapping; all there is where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


def files_under(directory: Path) -> Iterator[os.DirEntry[str]]:
    """All files below a directory; what disappears meanwhile is left out."""
    pending = [os.fspath(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        yield entry
        except FileNotFoundError:
            continue


def disk_bytes(directory: Path) -> tuple[int, int]:
    """Bytes of all files below a directory: their lengths, and what the disk has allocated for them."""
    lengths = allocated = 0
    for entry in files_under(directory):
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        lengths += found.st_size
        allocated += found.st_blocks * 512
    return lengths, allocated


def forget(directory: Path) -> None:
    """Drop a directory's files from the page cache. Pages that a process has mapped stay."""
    os.sync()  # only what is on disk can be dropped
    for entry in files_under(directory):
        try:
            descriptor = os.open(entry.path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def recall(directory: Path) -> None:
    """Read a directory's files, so that the page cache holds them.

    Some systems, virtual machines above all, take back pages that nobody has touched for seconds, with memory to
    spare: a store of gigabytes does not stay warm by itself.
    """
    room = bytearray(2**20)
    for entry in files_under(directory):
        try:
            with open(entry.path, "rb", buffering=0) as file:
                while file.readinto(room):
                    pass
        except FileNotFoundError:
            continue


def forget_mapping(address: int, num_bytes: int) -> None:
    """Drop a memory map's own references to a file's pages, so that the cache may drop them."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(num_bytes), _MADV_DONTNEED)


def cached_share(directory: Path) -> float:
    """The part of a directory's bytes that is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    cached = pages = 0
    for entry in files_under(directory):
        length = entry.stat().st_size
        if length == 0:
            continue
        with open(entry.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            flags = np.zeros(-(-length // mmap.PAGESIZE), dtype=np.uint8)
            content = np.frombuffer(mapped, dtype=np.uint8)
            failed = libc.mincore(
                ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(length), ctypes.c_void_p(flags.ctypes.data)
            )
            del content  # or the map cannot be closed
        if not failed:
            cached += int((flags & 1).sum())
            pages += len(flags)
    return cached / pages if pages else 0.0


def copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    os.sync()


class ChildProcess:
    """A process that is ended with this one: it says one line when it is ready, and stops when asked.

    Args:
        command: what to run.
        log: where its stderr goes, shown when it does not start.

    Raises:
        RuntimeError: it ended, or stayed silent, before its first line.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
            )
        running.append(self)
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        try:
            self.first_line = self.read_line()
        except BaseException:
            self.close()
            raise
        finally:
            watchdog.cancel()
        if not self.first_line:
            self.close()
            raise RuntimeError(f"{' '.join(command[:4])} did not start: {_last_lines(log)}")

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def write_line(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it, by force if it takes too long."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if self in running:
            running.remove(self)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Closes(Protocol):
    def close(self) -> None: ...


running: list[_Closes] = []
"""Processes that were started and not closed."""


def stop_remaining() -> None:
    """End the processes that an interruption has left without an owner."""
    for child in list(running):
        child.close()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except FileNotFoundError:
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True)
        return int(shown.stdout) * 1024


def written_bytes(pid: int) -> int | None:
    """Bytes that a process has caused to be written to storage, None where the system does not say.

    Linux counts them page by page at the moment a page of the cache becomes dirty.
    """
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project, from :data:`ROOT`, with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def _last_lines(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:]) or "it said nothing"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
