"""Descriptors of files that are kept open to be read, as many as are allowed and no more for long."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class Descriptor:
    """An open file, and how many read it."""

    number: int
    users: int = 0


class Descriptors:
    """Open files by the names of their segments.

    Args:
        open_file: opens one.
        max_open: descriptors kept open. More may be in use at once; then the extra ones are closed after use.
        read: called with the name of one that was removed, once nobody reads it any more.
    """

    def __init__(
        self, open_file: Callable[[str], int], max_open: int, read: Callable[[str], object] = lambda _: None
    ) -> None:
        self._open_file = open_file
        self._max_open = max_open
        self._was_read = read
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Descriptor] = OrderedDict()
        self._removed: dict[str, Descriptor] = {}
        """Of files that are removed and still read."""
        self._read = threading.Condition(self._lock)
        """One of those is closed."""
        self._num_in_use = 0

    @property
    def room(self) -> int:
        """How many can be held for long, beside those that are in use now."""
        return self._max_open - self._num_in_use

    def take(self, stems: Sequence[str], *, wait: bool = True) -> list[Descriptor]:
        """Open files to read from, until :meth:`let_go`.

        Raises:
            BlockingIOError: without ``wait``, not all of them are open, or a thread is at it.
            whatever opening one raises.
        """
        # Counted, so that neither the bound nor a deletion closes a descriptor in use: its number could be
        # given to another file, and the read would return that file's bytes.
        found: list[Descriptor] = []
        if not self._lock.acquire(blocking=wait):
            raise BlockingIOError("another thread opens or closes segments")
        try:
            for stem in stems:
                held = self._open.get(stem)
                if held is None:
                    if not wait:
                        raise BlockingIOError(f"segment {stem} is not open")
                    held = self._open[stem] = Descriptor(self._open_file(stem))
                self._open.move_to_end(stem)
                self._num_in_use += held.users == 0
                held.users += 1
                found.append(held)
            self._close_surplus()
        except BaseException:
            self._let_go(stems, found)
            raise
        finally:
            self._lock.release()
        return found

    def let_go(self, stems: Sequence[str], descriptors: Sequence[Descriptor]) -> None:
        """The end of :meth:`take`."""
        with self._lock:
            done = self._let_go(stems, descriptors)
        for stem in done:
            self._was_read(stem)

    def _let_go(self, stems: Sequence[str], descriptors: Sequence[Descriptor]) -> list[str]:
        done = []
        for stem, held in zip(stems, descriptors, strict=False):
            held.users -= 1
            self._num_in_use -= held.users == 0
            if held.users == 0 and self._open.get(stem) is not held:
                os.close(held.number)
                if self._removed.get(stem) is held:
                    del self._removed[stem]
                    self._read.notify_all()
                    done.append(stem)
        self._close_surplus()
        return done

    def remove(self, stem: str) -> bool:
        """The file of that name is no more; returns whether somebody still reads it."""
        with self._lock:
            held = self._open.pop(stem, None)
            if held is not None and held.users == 0:
                os.close(held.number)
            elif held is not None:
                self._removed[stem] = held
            return stem in self._removed

    def close_idle(self, stem: str) -> bool:
        """Close a file, unless somebody reads it; returns whether nobody does."""
        with self._lock:
            held = self._open.get(stem)
            if held is not None and held.users == 0:
                os.close(self._open.pop(stem).number)
            return held is None or held.users == 0

    def wait_until_read(self, seconds: float) -> str | None:
        """Wait until nobody reads what was removed; returns the name of one that somebody still does."""
        with self._lock:
            done = self._read.wait_for(lambda: not self._removed, seconds)
            return None if done else min(self._removed)

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for held in self._open.values():
                os.close(held.number)
            self._open.clear()

    def _close_surplus(self) -> None:
        surplus = len(self._open) - self._max_open
        if surplus > 0:
            idle = [stem for stem, held in self._open.items() if held.users == 0]
            for stem in idle[:surplus]:
                os.close(self._open.pop(stem).number)
