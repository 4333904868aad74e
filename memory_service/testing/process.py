"""For tests of code that uses the service: the real one, in a process of its own."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, Self

_READY: Final = re.compile(r"memory-service listening on ((?:http|unix)://.+) \(data: .*\)\n")


class Ended(NamedTuple):
    """How a process ended, and what it said that nobody had read yet."""

    status: int
    """Its exit status; that of a process which a signal has ended is the signal's number, negative."""
    stdout: str
    """Empty, unless something is wrong."""
    stderr: str
    """Its log; empty where that goes to a file."""


class NotStartedError(RuntimeError):
    """The service ended, or said nothing, before it was ready; the message holds its log."""


class ServiceProcess:
    """``memory-service serve`` in a process of its own, on a free port, ready for requests.

    As a context manager it ends with the block, at once: what it has acknowledged is on the disk.

    Args:
        data: directory of the store; made where it does not exist.
        arguments: further ones of ``memory-service serve``: ``"--access-log"``, or ``"--port", "8765"``.
        environment: variables beside those of this process: ``{"MEMORY_SERVICE_MAX_BODY_BYTES": "17"}``.
        log: file that its stderr is appended to; made, with its directory, where it does not exist. None:
            :meth:`stop` gives it.
        own_session: Ctrl-C in a terminal does not reach it.
        start_seconds: how long it may take to be ready.

    Raises:
        NotStartedError: it did not get ready.
    """

    url: str
    """Its address, without a slash at its end."""

    def __init__(
        self,
        data: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        own_session: bool = False,
        start_seconds: float = 60,
    ) -> None:
        self.data = data
        self.log = log
        self._log_began = 0
        self._end: Ended | None = None
        with ExitStack() as stack:
            stderr = subprocess.PIPE
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                stderr = stack.enter_context(log.open("ab")).fileno()
                self._log_began = log.stat().st_size
            self.process = subprocess.Popen(
                [sys.executable, "-m", "memory_service", "serve", "--data", str(data), "--port", "0", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=own_session,
            )
        try:
            self.url = self._wait_until_ready(start_seconds)
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, seconds: float) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(seconds) else None
        found = _READY.fullmatch(line or "")
        if found is None:
            what = f"said nothing for {seconds:g} s" if line is None else f"said {line!r} and not that it is ready"
            raise NotStartedError(f"the memory service {what}; {self._last_words(self.kill())}")
        return found[1]

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = 30) -> Ended:
        """Ask it to end, and wait: requests under way are answered, and open segments sealed.

        Args:
            number: the signal that asks.

        Raises:
            TimeoutError: it did not end in time, and was killed.
        """
        self.process.send_signal(number)
        try:
            return self._wait(seconds)
        except subprocess.TimeoutExpired:
            words = self._last_words(self.kill())
            raise TimeoutError(f"the memory service did not end in {seconds:g} s; {words}") from None

    def kill(self) -> Ended:
        """End it at once, as a loss of power would."""
        self.process.kill()
        return self._wait()

    def _wait(self, seconds: float | None = None) -> Ended:
        if self._end is None:
            stdout, stderr = self.process.communicate(timeout=seconds)
            self._end = Ended(self.process.returncode, stdout, stderr or "")
        return self._end

    def _last_words(self, ended: Ended) -> str:
        log = ended.stderr if self.log is None else self.log.read_bytes()[self._log_began :].decode(errors="replace")
        return f"exit status {ended.status}, log: {log.strip() or 'empty'}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
