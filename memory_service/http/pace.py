"""Whether threads get a processor when they want one, as Linux counts it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

SHARE: Final = 2 / 3
"""Of the time in which they want a processor, threads should have one for so much."""
_MOST_SECONDS: Final = 0.005
_LINE_BYTES: Final = 64


class Pace:
    """How far some threads are behind: what they have run, against their share of what they have run and waited for a
    processor together. Waiting for a disk, a database or each other is none of it.

    Elsewhere than on Linux nobody is ever behind.
    """

    def __init__(self) -> None:
        self.files: list[int] = []
        """One for each thread; what is in them: nanoseconds run, nanoseconds waited, and how often."""
        self._behind = 0.0
        self._ran = self._waited = 0
        weakref.finalize(self, _close, self.files)

    def join(self) -> None:
        """This thread is one of them, and lives as long as this does."""
        with suppress(OSError):
            self.watch(os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC))

    def watch(self, file: int) -> None:
        """What is told there counts."""
        self.files.append(file)

    def seconds_behind(self) -> float:
        """For how long they would have to run, while nobody else does, to be where they should be. At most 15 ms: what
        was long ago is made up for by nobody. For use in one thread."""
        try:
            lines = [os.pread(file, _LINE_BYTES, 0).split() for file in self.files]
        except OSError:
            return 0.0
        ran, waited = (sum(int(line[place]) for line in lines) for place in (0, 1))
        new_ran, new_waited = (ran - self._ran) / 1e9, (waited - self._waited) / 1e9
        self._ran, self._waited = ran, waited
        self._behind = min(max(self._behind + SHARE * (new_ran + new_waited) - new_ran, 0.0), _MOST_SECONDS)
        return self._behind / (1 - SHARE)


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
