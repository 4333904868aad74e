"""A byte-bounded file without a name, in which processes of one machine share decoded exemplars.

It is a log that goes round: what is put in lies behind what was put in before it, and the oldest makes room. Two
numbers at its front say which entries count, ``tail`` <= number < ``head``. Each is written whole:

- who puts an entry in raises ``tail`` past all that it writes over, writes the entry, and raises ``head``. Killed in
  between, it leaves entries that were good before, and nothing else.
- who has copied an entry looks at ``tail`` again: where that has not passed it, nothing was written over it meanwhile.

A lock of the file, which the kernel takes from a killed process, keeps writers apart. Who waits for it too long, as
its holder was stopped, goes without: an arena only saves work.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from client._forking import start_anew_when_forked

try:
    import fcntl
except ImportError:  # pragma: no cover
    CAN_SHARE = False
else:
    CAN_SHARE = hasattr(os, "pwritev")
    """Whether this system has what an arena needs."""

_FRONT_BYTES: Final = 4096
_SLOT: Final = struct.Struct("<QQQIIII")
_SLOT_DTYPE: Final = np.dtype(
    [
        ("scope", "<u8"),
        ("exemplar_id", "<u8"),
        ("position", "<u8"),
        ("fingerprint", "<u4"),
        ("pixel_bytes", "<u4"),
        ("front_bytes", "<u4"),
        ("unused", "<u4"),
    ]
)
_BYTES_A_SLOT: Final = 2048
"""Of the whole file: entries shorter than that on average leave some of it unused."""
_MOST_SLOTS = 2**18
_ALIGNMENT: Final = 64
_PATIENCE_S: Final = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.00005, 0.001


class Entry(NamedTuple):
    """Where an exemplar is."""

    number: int
    """Of all that were ever put in."""
    scope: int
    exemplar_id: int
    position: int
    """Bytes from the beginning of the log, as if it never went round."""
    fingerprint: int
    pixel_bytes: int
    """0 = its front alone."""
    front_bytes: int

    @property
    def end(self) -> int:
        return self.position + self.pixel_bytes + self.front_bytes


class Arena:
    """The file, and what this process knows of its entries. Threads share it, and so do forked processes.

    Args:
        num_bytes: of the file; memory is taken as it fills.
        descriptor: of an arena that another process made; None = a new one.
    """

    def __init__(self, num_bytes: int, descriptor: int | None = None) -> None:
        self.num_bytes = num_bytes
        self.descriptor = _new_file(num_bytes) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self.descriptor)
        self._num_slots = min(num_bytes // _BYTES_A_SLOT, _MOST_SLOTS)
        self._log_at = _FRONT_BYTES + -(-self._num_slots * _SLOT.size // _ALIGNMENT) * _ALIGNMENT
        self.log_bytes = (num_bytes - self._log_at) // _ALIGNMENT * _ALIGNMENT
        """The most that entries take."""
        view = mmap.mmap(self.descriptor, num_bytes, access=mmap.ACCESS_READ)
        self._log: NDArray[np.uint8] = np.frombuffer(view, np.uint8)[self._log_at :]
        self.start_anew()
        start_anew_when_forked(self)

    def start_anew(self) -> None:
        """Know nothing: also in a forked process, as a thread of its parent may have held the lock, half done."""
        self._entries: deque[Entry] = deque()
        self._known: dict[tuple[int, int], Entry] = {}
        self._head = self._tail = 0
        self._end = 0
        """Behind the newest entry, counted as :attr:`Entry.position`."""
        self._patience = _PATIENCE_S
        self._threads = threading.Lock()

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Around looking at the entries and changing them; False where it is somebody else's for too long."""
        deadline = time.monotonic() + self._patience
        threads = self._threads
        if threads.acquire(timeout=self._patience or 0.001):
            try:
                has_both = self._lock_file(deadline)
                self._patience = _PATIENCE_S if has_both else 0.0
                if has_both:
                    self._catch_up()
                yield has_both
            finally:
                # Whether or not it is held: an exception may have come before that was noted.
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)
                threads.release()
        else:
            self._patience = 0.0
            yield False

    def _lock_file(self, deadline: float) -> bool:
        # Of the process, not of the open file, which forked ones have in common. It ends with the process, and with
        # the first descriptor of the file that the process closes: so it has but one.
        wait = _FIRST_WAIT_S
        while True:
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
            if time.monotonic() > deadline:
                return False
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def find(self, scope: int, fingerprints: Mapping[int, int]) -> dict[int, tuple[Entry, bytes]]:
        """Those exemplars that are here, by id, each with its front.

        Args:
            scope: a number that stands for the buffer.
            fingerprints: exemplar id -> its record's. One with another fingerprint is another exemplar.
        """
        found: dict[int, tuple[Entry, bytes]] = {}
        with self._locked() as is_mine:
            if is_mine:
                for exemplar_id, fingerprint in fingerprints.items():
                    entry = self._known.get((scope, exemplar_id))
                    if entry is not None and entry.fingerprint == fingerprint:
                        start = entry.position % self.log_bytes + entry.pixel_bytes
                        found[exemplar_id] = entry, self._log[start : start + entry.front_bytes].tobytes()
        return found

    def pixels(self, entry: Entry) -> NDArray[np.uint8]:
        """Its pixels, flat, where they lie. What was read from there counts if the entry is not :meth:`lost` then."""
        start = entry.position % self.log_bytes
        return self._log[start : start + entry.pixel_bytes]

    def lost(self, entries: Sequence[Entry]) -> list[int]:
        """Places in ``entries`` of those that may have been written over by now."""
        with self._locked() as is_mine:
            tail = self._tail if is_mine else self._head + 1
        return [place for place, entry in enumerate(entries) if entry.number < tail]

    def put(
        self, scope: int, exemplar_id: int, fingerprint: int, front: bytes, pixels: NDArray[np.uint8] | None
    ) -> None:
        """Keep an exemplar, unless it is there already, or is too large.

        Args:
            pixels: contiguous, of any shape; None = keep the front alone.

        Raises:
            OSError: there is no room where the file lies.
        """
        pixel_bytes = 0 if pixels is None else pixels.nbytes
        num_bytes = pixel_bytes + len(front)
        if num_bytes > self.log_bytes:
            return
        with self._locked() as is_mine:
            if not is_mine:
                return
            known = self._known.get((scope, exemplar_id))
            if known is not None and known.fingerprint == fingerprint and known.pixel_bytes >= pixel_bytes:
                return
            position = -(-self._end // _ALIGNMENT) * _ALIGNMENT
            place = position % self.log_bytes
            if place + num_bytes > self.log_bytes:
                position += self.log_bytes - place
                place = 0
            entry = Entry(self._head, scope, exemplar_id, position, fingerprint, pixel_bytes, len(front))
            self._make_room(entry)
            pieces: list[bytes | memoryview] = [] if pixels is None else [pixels.data.cast("B")]
            # Through the file, not the map: fresh pages need neither be zeroed nor mapped first, and what is mapped
            # can be read only.
            if os.pwritev(self.descriptor, [*pieces, front], self._log_at + place) != num_bytes:
                raise OSError(errno.ENOSPC, "no room left for decoded exemplars")
            slot = _SLOT.pack(scope, exemplar_id, position, fingerprint, pixel_bytes, len(front), 0)
            os.pwrite(self.descriptor, slot, self._slot_at(entry.number))
            os.pwrite(self.descriptor, (entry.number + 1).to_bytes(8, "little"), 0)
            # What an interrupt (Ctrl-C) leaves undone of this, the next look at the file does.
            self._learn(entry)
            self._head = entry.number + 1

    def _make_room(self, entry: Entry) -> None:
        oldest_position, oldest_number = entry.end - self.log_bytes, entry.number + 1 - self._num_slots
        tail = self._tail
        for old in self._entries:
            if old.position >= oldest_position and old.number >= oldest_number:
                break
            tail = old.number + 1
        if tail != self._tail:
            os.pwrite(self.descriptor, tail.to_bytes(8, "little"), 8)
            self._forget_before(tail)

    def _catch_up(self) -> None:
        """Learn what others have done. For who has the lock."""
        front = os.pread(self.descriptor, 16, 0)
        head, tail = int.from_bytes(front[:8], "little"), int.from_bytes(front[8:], "little")
        self._forget_before(tail)
        # The newest one says where the log ends, also where nothing of it counts any more.
        at = max(self._head, min(tail, head - 1))
        while at < head:
            slot = at % self._num_slots
            count = min(head - at, self._num_slots - slot)
            data = os.pread(self.descriptor, count * _SLOT.size, self._slot_at(at))
            for number, row in enumerate(np.frombuffer(data, _SLOT_DTYPE).tolist(), at):
                self._learn(Entry(number, *row[:-1]))
            at += count
        self._head = head
        self._forget_before(tail)

    def _learn(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._known[entry.scope, entry.exemplar_id] = entry
        self._end = entry.end

    def _forget_before(self, tail: int) -> None:
        while self._entries and self._entries[0].number < tail:
            old = self._entries[0]
            key = old.scope, old.exemplar_id
            if self._known.get(key) is old:
                del self._known[key]
            # Last: interrupted before, it is forgotten the next time.
            self._entries.popleft()
        self._tail = tail

    def _slot_at(self, number: int) -> int:
        return _FRONT_BYTES + number % self._num_slots * _SLOT.size


def _new_file(num_bytes: int) -> int:
    """A descriptor of an empty file that has no name, and goes when its last descriptor does."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("decoded exemplars", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.truncate(descriptor, num_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
