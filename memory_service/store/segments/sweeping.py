"""Removes objects that the index names as going, in a thread of its own: again and again while that fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from memory_format import StorageError

logger = logging.getLogger(__name__)

_LEAST_WAIT: Final = 0.5
_MOST_WAIT: Final = 30.0


class Sweeper:
    """What is to go, and a thread while there is anything.

    Args:
        remove: removes those that nobody holds, and gives those that are gone for good; or raises ``StorageError``:
            then none of them counts as removed.
        gone: told which are.
    """

    def __init__(self, remove: Callable[[list[str]], Iterable[str]], gone: Callable[[Iterable[str]], object]) -> None:
        self._remove = remove
        self._gone = gone
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}
        """Name -> when it may be removed."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self.failing: set[str] = set()
        """What could not be removed yet."""

    def add(self, names: Iterable[str], seconds: float = 0.0) -> None:
        """Remove these, not before so many seconds from now."""
        with self._changed:
            self._due |= dict.fromkeys(names, time.monotonic() + seconds)
            if self._due and self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until all is gone that may go by now; returns whether it is."""
        with self._changed:
            if self.failing:
                # Not when its turn comes: now.
                self._due |= dict.fromkeys(self.failing, time.monotonic())
                self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._due_now(), seconds)

    def close(self, seconds: float) -> None:
        """End; what is not gone by then is named in the index still."""
        self.wait(0 if self.failing else seconds)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _due_now(self) -> list[str]:
        now = time.monotonic()
        return [name for name, due in self._due.items() if due <= now or name in self.failing]

    def _run(self) -> None:
        pause = _LEAST_WAIT
        while (names := self._next()) is not None:
            try:
                gone = self._remove(names)
            except StorageError as error:
                (logger.debug if self.failing else logger.warning)("objects stay for now: %s", error.message)
                with self._changed:
                    self.failing |= set(names)
                    self._due |= dict.fromkeys(names, time.monotonic() + pause)
                pause = min(2 * pause, _MOST_WAIT)
                continue
            pause = _LEAST_WAIT
            self._gone(gone)
            with self._changed:
                self.failing -= set(names)
                for name in names:
                    self._due.pop(name, None)
                self._changed.notify_all()

    def _next(self) -> list[str] | None:
        """Those whose time has come, once it has; None where this ends."""
        with self._changed:
            while self._due and not self._closed:
                now = time.monotonic()
                if names := [name for name, due in self._due.items() if due <= now]:
                    return names
                self._changed.wait(min(self._due.values()) - now)
            self._thread = None
            return None
