"""Whose turn it is to change a buffer: one thread's at a time, and where the index is shared, one process's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from memory_format import StorageError
from memory_service.store.contents import Contents
from memory_service.store.index.base import Found, Wanted
from memory_service.store.writer import Writer

_BEHIND_SECONDS: Final = 5.0
"""For how long who reads waits until what others have changed is read."""


class Turns:
    """Those of one buffer."""

    def __init__(self, contents: Contents, writer: Writer) -> None:
        self.lock = threading.Lock()
        """The buffer's, in this process."""
        self._contents = contents
        self._index = contents.index
        self._writer = writer

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The buffer's lock, with nothing of an earlier failure left. Raises ``NotFoundError`` (``unknown_buffer``);
        ``StorageError``."""
        with self.lock, self.alone():
            yield

    @contextmanager
    def still(self) -> Iterator[None]:
        """For who only looks: this process changes nothing meanwhile. Raises as :meth:`changing`."""
        if self._index.is_shared:
            with self.lock:
                self._contents.check_alive()
                yield
        else:
            with self.changing():
                yield

    @contextmanager
    def alone(self, wanted: Wanted | None = None) -> Iterator[Found | None]:
        """For the holder of the lock: no other process changes the buffer, what others have changed is seen, and
        nothing of an earlier failure is left. Gives the answers that are wanted, where they were asked for on the way.
        Raises as :meth:`changing`."""
        with self._index.changing(self._contents.state.config.id, wanted) as taken:
            self._contents.check_alive()
            self._writer.catch_up(taken.number)
            yield taken.found

    @contextmanager
    def ending(self) -> Iterator[None]:
        """As :meth:`changing`, and whatever an earlier failure has left where there is no other process."""
        if self._index.is_shared:
            with self.changing():
                yield
        else:
            with self.lock:
                yield

    def catch_up(self, number: int) -> None:
        """See what other processes have committed, up to that change at least.

        Raises:
            NotFoundError: ``unknown_buffer``: they have deleted it.
            StorageError: ``replica_behind``: that takes too long; or it cannot be read.
        """
        if self._contents.state.number >= number:
            return
        if not self.lock.acquire(timeout=_BEHIND_SECONDS):
            raise StorageError(
                "this replica has not seen all that others have changed yet; ask again", code="replica_behind"
            )
        try:
            self._contents.check_alive()
            if self._contents.state.number < number:
                self._writer.see(number)
        finally:
            self.lock.release()
