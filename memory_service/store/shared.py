"""A store that several replicas of the service have open at once, over one index and one object store.

What a request is about is looked up in the index first, and read where others have changed it. So no answer is of an
older state than any that was given before it, by whichever replica.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from memory_format import BusyError, ConflictError, ExemplarMemoryError, NotFoundError, StorageError
from memory_service.store.buffer import Buffer
from memory_service.store.erasures import WAIT_SECONDS
from memory_service.store.index.base import NAMES, BufferEntry, BufferRows, Writing
from memory_service.store.loading import SealedSegments
from memory_service.store.segments.objects import ObjectSegments
from memory_service.store.store import Store

logger = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 60.0
"""Between looks for what a replica has left that has ended, half of it more or less."""
_WATCH_SECONDS: Final = 60.0
"""Between looks for what was erased, where nobody tells."""
_AGAIN_SECONDS: Final = 0.5
"""And where that could not be confirmed."""
_TRIES: Final = 3
"""To look at segments that the index names."""

_T = TypeVar("_T")


class SharedStore(Store):
    """One replica's. Its directory is its own."""

    is_shared: ClassVar[bool] = True

    def __init__(self, data: Path, *given: Any, **more: Any) -> None:
        self._adopting = threading.Lock()
        self._naming, self._names = threading.Lock(), threading.local()
        self._closed = threading.Event()
        _anew(lambda: super(SharedStore, self).__init__(data, *given, **more))
        from memory_service.store.index.shared import SharedIndex  # who has the index in a file needs no driver

        assert isinstance(self._index, SharedIndex)
        assert self._index.watch is not None
        self._end_silent = self._index.end_silent
        self._watch, self._without = self._index.watch, self._index.erasures_before
        self._threads = [
            threading.Thread(target=run, name=f"replica-{name}", daemon=True)
            for name, run in (("sweeper", self._sweep), ("watcher", self._watch_erasures))
        ]
        self.erasures.drop_copies = self.drop_copies
        for thread in self._threads:
            thread.start()

    # Which buffers there are

    def buffer(self, name: str) -> Buffer:
        """As it is now, whoever has changed it last. Raises ``NotFoundError`` (``unknown_buffer``); ``StorageError``:
        the index cannot be read, or ``replica_behind``."""
        with self._index.reading(alone=True) as reading:
            found = reading.numbers(name).get(name)
        return self._seen(name, found)

    def known(self, name: str) -> Buffer | None:
        """As it was when it was last looked at: who changes it sees what it is by then, or ``unknown_buffer``."""
        return self._buffers.get(name)

    def buffers(self) -> list[Buffer]:
        """All buffers by name, as they are now."""
        found = []
        for name, of_it in self._look().items():
            with suppress(NotFoundError):
                found.append(self._seen(name, of_it))
        return sorted(found, key=lambda buffer: buffer.name)

    def page_of_buffers(
        self, limit: int, cursor: str | None = None, *, only: Callable[[str], bool] | None = None
    ) -> tuple[list[Buffer], str | None]:
        """As :meth:`Store.page_of_buffers`."""
        numbers = self._look()
        page, after = super().page_of_buffers(limit, cursor, only=only)
        found = []
        for buffer in page:
            with suppress(NotFoundError):
                # One that was made here since is as it is.
                found.append(self._seen(buffer.name, numbers[buffer.name]) if buffer.name in numbers else buffer)
        return found, after

    def _look(self) -> dict[str, tuple[int, int]]:
        """Know all buffers that there are; returns their ids and numbers by name."""
        # First: what is made here meanwhile is not deleted.
        known = list(self._buffers.items())
        with self._index.reading(alone=True) as reading:
            numbers = reading.numbers()
        for name, buffer in known:
            if numbers.get(name, (0, 0))[0] != buffer.config.id:
                self._forget(buffer)
        for name, (id_, _) in list(numbers.items()):
            try:
                self._adopt(name, id_)
            except NotFoundError:
                del numbers[name]
        return numbers

    def _seen(self, name: str, found: tuple[int, int] | None) -> Buffer:
        """A buffer of which the index says its id and the number of its last change; None: there is none."""
        known = self._buffers.get(name)
        if known is not None and (found is None or known.config.id != found[0]):
            self._forget(known)
        if found is None:
            return super().buffer(name)
        buffer = self._adopt(name, found[0])
        try:
            buffer.turns.catch_up(found[1])
        except NotFoundError:
            self._forget(buffer)
            raise
        return buffer

    def _adopt(self, name: str, id_: int) -> Buffer:
        """A buffer that another replica may have made. Raises ``NotFoundError``: it is gone by now."""
        known = self._buffers.get(name)
        if known is not None and known.config.id == id_:
            return known
        with self._adopting:
            known = self._buffers.get(name)
            if known is not None and known.config.id == id_:
                return known
            buffer = self._buffers[name] = _anew(lambda: self._read_buffer(name, id_))
            return buffer

    def _read_buffer(self, name: str, id_: int) -> Buffer:
        with self._index.reading() as reading:
            rows = reading.contents(id_).get(id_)
        if rows is None:
            raise NotFoundError(f"there is no buffer {name!r}", code="unknown_buffer")
        return self._open_buffer(rows, SealedSegments(self._segments))

    def _forget(self, buffer: Buffer) -> None:
        """Another replica has deleted it, and removes its files."""
        buffer.contents.dropped = True
        with self._adopting:
            if self._buffers.get(buffer.name) is buffer:
                del self._buffers[buffer.name]
        self._quota.drop(buffer.name)
        stems = {segment.stem for segment in buffer.state.segments.values()}
        for other in list(self._buffers.values()):
            # Forks share some.
            stems -= {segment.stem for segment in other.state.segments.values()}
        self._segments.forget(stems)

    def _open_buffer(self, rows: BufferRows, sealed: SealedSegments) -> Buffer:
        self._segments.changed_elsewhere(rows.segments)
        return super()._open_buffer(rows, sealed)

    # What makes some

    def create_buffer(self, name: str, **settings: Any) -> tuple[Buffer, bool]:
        """As :meth:`Store.create_buffer`."""
        with self._alone():
            self._refresh(name)
            return super().create_buffer(name, **settings)

    def fork(self, name: str, new_name: str, **what: Any) -> Buffer:
        """As :meth:`Store.fork`."""
        with self._alone():
            self._refresh(new_name)
            return super().fork(name, new_name, **what)

    def expect_free(self, name: str) -> None:
        """As :meth:`Store.expect_free`."""
        self._refresh(name)
        super().expect_free(name)

    def _make(self, name: str, change: Callable[[Writing], BufferEntry]) -> BufferEntry:
        with self._alone():
            with self._index.reading() as reading:
                if reading.find_buffer(name) is not None:
                    raise ConflictError(f"there is a buffer {name!r} already", code="buffer_exists")
            return super()._make(name, change)

    def _refresh(self, name: str) -> None:
        with suppress(NotFoundError):
            self.buffer(name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process makes a buffer meanwhile. One thread of this one waits for that, so that connections are
        left for who changes buffers."""
        if getattr(self._names, "held", False):
            yield
            return
        with self._naming, self._index.changing(NAMES):
            self._names.held = True
            try:
                yield
            finally:
                self._names.held = False

    # What others have left

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEEP_SECONDS * random.uniform(0.5, 1.5)):
            try:
                self.sweep()
                self.go_on_erasing()
            except (ExemplarMemoryError, OSError) as error:
                logger.warning("what an ended replica has left stays for now: %s", error)

    def sweep(self) -> None:
        """Remove what was to be uploaded, or to go, by a replica that has ended since, and end transactions of those
        that were cut off. Raises ``StorageError``."""
        self._end_silent()
        with self._index.reading() as reading:
            dead = reading.dead_uploads()
        assert isinstance(self._segments, ObjectSegments)
        self._segments.sweep_dead(dead)

    # Erasing

    def go_on_erasing(self) -> None:
        """Erase what a replica was at that has ended since. Raises ``StorageError``."""
        with self._index.reading() as reading:
            pending = reading.erasures()
        self.erasures.resume(pending)

    def drop_copies(self) -> None:
        """See what has become of all buffers. There is no copy here of a segment that the index does not name, and
        nobody reads one. Raises ``StorageError``; ``BusyError``."""
        numbers = self._look()
        for name, found in numbers.items():
            with suppress(NotFoundError):
                self._seen(name, found)
        with self._index.reading() as reading:
            stems = {segment.stem for segment in reading.segments()}
        for buffer in list(self._buffers.values()):
            for lease in buffer.contents.readers.in_the_way():
                lease.end()
        self._segments.keep_only(stems, WAIT_SECONDS)

    def _watch_erasures(self) -> None:
        while not self._closed.is_set():
            seconds = _WATCH_SECONDS
            try:
                self._confirm(self._watch.look())
            except (ExemplarMemoryError, OSError) as error:
                logger.info("copies of what was erased are not confirmed to be gone: %s", error)
                seconds = _AGAIN_SECONDS
            self._watch.wait(seconds)

    def _confirm(self, number: int) -> None:
        if number > self._without:
            # A backup under way has copies.
            if not self._archiving.acquire(timeout=_AGAIN_SECONDS):
                raise BusyError("a backup or an erasure is under way here")
            try:
                self.drop_copies()
            finally:
                self._archiving.release()
            self._without = number
        self._watch.confirm(number)

    def release(self) -> None:
        """As :meth:`Store.release`."""
        self._closed.set()
        self._index.end_waiting()
        self._watch.wake()
        # They would open the index again.
        for thread in self._threads:
            thread.join()
        super().release()


def _anew(read: Callable[[], _T]) -> _T:
    """What reads the index and then segments that it names, again where one is not there: another replica that erases
    removes them at once, and the index names others by then."""
    for _ in range(_TRIES - 1):
        try:
            return read()
        except StorageError as error:
            if not error.details.keys() & {"segment", "segments"}:
                raise
            logger.info("the index is read again: %s", error.message)
    return read()
