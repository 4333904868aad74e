"""Who pushes on this machine, and whether their threads get a processor when they want one, as Linux counts it."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

SHARE: Final = 2 / 3
"""Of the time in which it wants a processor, a thread should have one for so much."""
_MOST_SECONDS: Final = 0.005
_FLOCK: Final = "@hhqqi"
"""Of Linux: kind, from where, first byte, how many, and whose."""
_THERE: Final = 1 << 32
"""The byte that everybody has locked who has the file open; no thread has so high a number."""
_TIME: Final = struct.Struct("@d")
_MOST_PACES: Final = 64
_ASLEEP_SECONDS: Final = 0.2
"""Linux tells of a wait for a processor once it is over: it is over by then."""
_LONGEST_WAIT: Final = 0.2
"""Seconds until a turn, however many processes draw."""


class Pace:
    """How far a thread of any process is behind: what it has run, against its share of what it has run and waited for a
    processor together. Waiting for a disk, a database or others' locks is none of it.

    Elsewhere than on Linux nobody is ever behind.

    Args:
        file: where Linux tells of the thread: nanoseconds run, nanoseconds waited, and how often. What was before this
            does not count.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._behind = 0.0
        self._ran = self._waited = 0
        self._ran, self._waited = self._told()
        self._awake = 0.0
        """When there was something new of it."""

    def seconds_behind(self, now: float) -> float:
        """For how long it would have to run, while nobody else does, to be where it should be. At most 15 ms: what was
        long ago is made up for by nobody. 0 where it waits for something else. For use in one thread.

        Args:
            now: by ``time.monotonic``.
        """
        ran, waited = self._told()
        new_ran, new_waited = (ran - self._ran) / 1e9, (waited - self._waited) / 1e9
        if new_ran or new_waited:
            self._awake = now
        elif now - self._awake > _ASLEEP_SECONDS:
            self._behind = 0.0
        self._ran, self._waited = ran, waited
        self._behind = min(max(self._behind + SHARE * (new_ran + new_waited) - new_ran, 0.0), _MOST_SECONDS)
        return self._behind / (1 - SHARE)

    def _told(self) -> tuple[int, int]:
        try:
            with open(self._file, "rb", buffering=0) as file:
                ran, waited, _ = file.read().split()
        except (OSError, ValueError):
            return self._ran, self._waited
        return int(ran), int(waited)


class Pushers:
    """Threads that push on this machine, one of each process: who draws waits for those that get no processor.

    Processes tell each other by a file. Who pushes has locked the byte whose number is its thread's; so who has ended
    has none. When the next turn to draw begins is written there. For use in one thread, but for :meth:`join`.

    Args:
        file: of those who tell each other; None = this process is alone. Where it cannot be used, so it is.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._thread: int | None = None
        self._pushes = False
        self._paces: dict[int, Pace] = {}
        self._next = 0.0
        """When the next turn to draw begins, as far as it is known here."""
        self._file = None if file is None else _opened(file)
        if file is not None and self._file is not None:
            weakref.finalize(self, _leave, file, self._file)

    def join(self) -> None:
        """The thread that pushes here is this one."""
        self._thread = threading.get_native_id()

    def tell(self, pushes: bool) -> None:
        """Whether that is at it."""
        self._pushes = pushes and self._thread is not None
        if self._file is not None and self._thread is not None:
            kind = fcntl.F_WRLCK if pushes else fcntl.F_UNLCK
            # Where the system has no lock left, others do not wait.
            with suppress(OSError):
                _lock(self._file, kind, self._thread)

    def seconds_to_wait(self, now: float) -> float:
        """Take a turn to draw on this machine: how long from now it begins. The one behind it is as much later as who
        pushes is behind (:meth:`Pace.seconds_behind`), whichever process takes it.

        Args:
            now: by ``time.monotonic``, which all processes have in common.
        """
        behind = self._seconds_behind(now)
        if not behind:
            return 0.0
        if self._file is not None:
            with suppress(OSError, struct.error):
                (self._next,) = _TIME.unpack(os.pread(self._file, _TIME.size, 0))
        # Whoever wrote it: nobody waits for longer than that.
        begins = min(max(now, self._next), now + _LONGEST_WAIT)
        self._next = begins + behind
        if self._file is not None:
            # Two at once take the same turn, which is no harm.
            with suppress(OSError):
                os.pwrite(self._file, _TIME.pack(self._next), 0)
        return begins - now

    def _seconds_behind(self, now: float) -> float:
        if len(self._paces) > _MOST_PACES:
            self._paces.clear()
        behind = 0.0
        for thread in self._at_it():
            pace = self._paces.get(thread)
            if pace is None:
                pace = self._paces[thread] = Pace(f"/proc/{thread}/schedstat")
            behind = max(behind, pace.seconds_behind(now))
        return behind

    def _at_it(self) -> Iterator[int]:
        if self._pushes and self._thread is not None:
            yield self._thread
        thread: int | None = None if self._file is None else _locked(self._file, 0)
        while self._file is not None and thread is not None:
            yield thread
            thread = _locked(self._file, thread + 1)


def _lock(file: int, kind: int, byte: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))


def _locked(file: int, first: int) -> int | None:
    """The first byte of a thread from there on that somebody else has locked."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, first, _THERE - first, 0)
    kind, _, locked, _, _ = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
    # What begins before that is none of ours, and would be found for ever.
    return None if kind == fcntl.F_UNLCK or locked < first else int(locked)


def _opened(file: Path) -> int | None:
    """A file of this user's, made where there is none; None where it cannot be had."""
    try:
        # Others can write to a directory for temporary files, too.
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            found = os.fstat(opened)
            if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
                raise OSError(f"{file} is no file of this user's")
            _lock(opened, fcntl.F_RDLCK, _THERE)
        except OSError:
            os.close(opened)
            raise
    except OSError as error:
        logger.info("draws do not wait for pushes through other replicas on this machine: %s", error)
        return None
    return opened


def _leave(file: Path, opened: int) -> None:
    """Close it; the last one removes it."""
    with suppress(OSError):
        _lock(opened, fcntl.F_WRLCK, _THERE)
        file.unlink()
    os.close(opened)
