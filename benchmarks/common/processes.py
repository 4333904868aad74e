"""Processes that are ended with this one."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

ROOT = Path(__file__).absolute().parents[2]
START_SECONDS = 120
STOP_SECONDS = 20


class ChildProcess:
    """A process that is ended with this one: it says one line when it is ready, and stops when asked.

    Args:
        command: what to run.
        log: where its stderr goes, shown when it does not start.
        environment: what it is told beside this process's own.

    Raises:
        RuntimeError: it ended, or stayed silent, before its first line.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
                env=None if environment is None else os.environ | environment,
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


def peak_resident_bytes(pid: int) -> int:
    """The most resident memory that a process has had so far.

    Raises:
        OSError: it is gone.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def written_bytes(pid: int) -> int | None:
    """Bytes that a process has caused to be written to storage, None where the system does not say.

    Linux counts them page by page at the moment a page of the cache becomes dirty.
    """
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project, from :data:`ROOT`, with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def _last_lines(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:]) or "it said nothing"
