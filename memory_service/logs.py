"""Log lines on stderr, written by a thread of their own.

Whoever reads stderr can be slow or stand still: a pager, a full disk, a container's log driver. A pipe takes 64 KiB and
then lets its writer wait. In the event loop that would be every client's wait, and under a buffer's lock that of all
its pushes. So lines wait in a queue; what does not fit it is counted, and the count is logged.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

from memory_format.api.terms import API_KEY_PATTERN

LogFormat = Literal["text", "json"]

REQUEST_ID: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("request_id")
"""Of the request that is being answered."""
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MOST_WAITING: Final = 10_000
"""Lines: some 2 MB."""
_LAST_SECONDS: Final = 2.0
"""How long the last lines may take, at the end."""


def hide_keys(text: str) -> str:
    """With the id alone of each key in it: some clients send theirs in an address, which is repeated to them."""
    return API_KEY_PATTERN.sub(r"em_\1_...", text)


class _TextFormatter(logging.Formatter):
    """A line for people."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        # A line may end by itself, as uvicorn's of an exception does.
        line = super().formatMessage(record).rstrip("\n")
        request = REQUEST_ID.get(None)
        return line if request is None else f"{line} [{request}]"


class _JsonFormatter(logging.Formatter):
    """A line for programs: one JSON object. What a caller gives as ``extra={"fields": ...}`` are its members too."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = REQUEST_ID.get(None)
        if request is not None:
            members["request_id"] = request
        members |= getattr(record, "fields", {})
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return json.dumps(members)


_FORMATTERS: Final[dict[LogFormat, type[logging.Formatter]]] = {"text": _TextFormatter, "json": _JsonFormatter}


class BackgroundHandler(logging.Handler):
    """Logs to a file descriptor without ever waiting for it.

    Args:
        descriptor: what lines are written to. Past Python's own buffer of stderr: its lock would be held by a thread
            that stands still when the process wants to end.
        log_format: text for people, or a JSON object a line.
        most_waiting: lines that may wait; those beyond are dropped and counted.
    """

    def __init__(self, descriptor: int, log_format: LogFormat = "text", most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self.setFormatter(_FORMATTERS[log_format]())
        self._descriptor = descriptor
        self._waiting: queue.Queue[str | None] = queue.Queue(most_waiting)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(hide_keys(self.format(record)))
        except queue.Full:
            # Called with the handler's lock.
            self._dropped += 1
        except Exception:
            self.handleError(record)

    def _run(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._write(line)
            if self._dropped and self._waiting.qsize() < self._waiting.maxsize // 2:
                with self.lock or contextlib.nullcontext():
                    dropped, self._dropped = self._dropped, 0
                logger = logging.getLogger(__name__)
                text = f"{dropped} lines were not logged: whoever reads them was too slow"
                self._write(self.format(logger.makeRecord(__name__, logging.WARNING, "", 0, text, (), None)))

    def _write(self, line: str) -> None:
        rest = memoryview((line + "\n").encode(errors="backslashreplace"))
        # Nobody reads any more: there is nowhere to say so.
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        """Wait for what is on its way, but not for long."""
        deadline = time.monotonic() + _LAST_SECONDS
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_LAST_SECONDS)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        super().close()


@contextlib.contextmanager
def logging_to_stderr(level: str, log_format: LogFormat = "text") -> Iterator[None]:
    """The root logger's lines go to stderr, from a level on (as ``logging`` names them), until the end of the block."""
    root, handler = logging.getLogger(), BackgroundHandler(2, log_format)
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()
