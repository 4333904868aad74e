"""Decoded exemplars that stay at hand: an exemplar's pixels never change, and its id is never given again."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing.context
import multiprocessing.reduction
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client._arena import CAN_SHARE, Arena, Entry
from client._params import whole
from client.batch import Fill, ReplayBatch, clear_padding, for_each_row
from client.unpack import UnpackedBatch
from memory_format import Batch
from memory_format.machine import memory_bytes

Pixels = TypeVar("Pixels")
"""An array, or a tensor."""

log = logging.getLogger(__name__)

LEAST_BYTES: Final = 1024 * 1024
MOST_BYTES: Final = 2**46
_DEFAULT_BYTES: Final = 256 * 1024 * 1024
_PART_OF_MEMORY: Final = 16


class PixelCache(ABC, Generic[Pixels]):
    """What keeps decoded exemplars, on whichever device. Its methods are for the modules of this package.

    Args:
        log_bytes: the most that exemplars take.
    """

    def __init__(self, num_bytes: int, log_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.log_bytes = log_bytes
        self.found = 0
        """Exemplars that were taken from here by this process, a batch counting each once."""
        self.decoded = 0
        """Exemplars that had to be fetched and decoded."""
        self._is_told = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_bytes})"

    @abstractmethod
    def find(self, scope: int, fingerprints: Mapping[int, int]) -> dict[int, tuple[Any, bytes]]:
        """Those exemplars that are here, by id: where, which has ``pixel_bytes``, and the front of each.

        Args:
            scope: a number that stands for the buffer.
            fingerprints: exemplar id -> its record's. One with another fingerprint is another exemplar.
        """

    def batch(self, fronts: Batch, fill: Fill, version: int) -> ReplayBatch:
        """A batch whose patches are where this cache is; see :meth:`ReplayBatch.from_fronts`."""
        return ReplayBatch.from_fronts(fronts, fill, version=version)

    def uncached(self, draw: Callable[[bool], ReplayBatch]) -> ReplayBatch:
        """The same of a batch that comes whole.

        Args:
            draw: gives it, with its pixels or without.
        """
        return draw(True)

    @abstractmethod
    def gather(self, entries: Mapping[int, Any], patch_valid: NDArray[np.bool_], patches: Pixels) -> list[int]:
        """Copy pixels into a batch.

        Args:
            entries: row -> what goes to the front of it.
            patch_valid: ``(B, K)``: what is padding is made zero, in all rows.
            patches: ``(B, K, P, P, 3)``, contiguous.

        Returns:
            rows in which there is nothing of use, as others needed the room meanwhile.
        """

    def decode(
        self, unpacked: UnpackedBatch, wanted: Sequence[int], threads: int | None, take: Callable[[int, Any], object]
    ) -> None:
        """Call ``take`` with each of the ``wanted`` places of a batch and its pixels ``(K, P, P, 3)``."""
        for_each_row(unpacked, threads, lambda place: take(place, unpacked.patches(place)), wanted)

    @abstractmethod
    def put(self, scope: int, exemplar_id: int, fingerprint: int, front: bytes, pixels: Pixels | None) -> None:
        """Keep an exemplar, unless it is there already, or is too large.

        Args:
            pixels: None = keep the front alone.
        """

    def expect_room(self, num_bytes: int) -> None:
        """Say once where a batch of so many bytes does not fit: it is all decoded again each time."""
        if num_bytes > self.log_bytes:
            self.tell_once(
                f"a cache of {self.num_bytes} bytes is less than one batch, which takes {num_bytes}, and saves little: "
                "give it more, or 0 for none"
            )

    def tell_once(self, what: str) -> None:
        """Log a warning, the first time."""
        if not self._is_told:
            self._is_told = True
            log.warning("%s", what)


class ExemplarCache(PixelCache[NDArray[np.uint8]]):
    """So many bytes for decoded exemplars, of any number of buffers and services. The oldest make room for new ones.

    Threads share it, and so do forked worker processes, and those that it is handed to when they are started
    (``multiprocessing``, a ``DataLoader``). The bytes are there once for all of them, in a file without a name that
    goes when the last of them ends.

    Args:
        num_bytes: the most that it takes, from a MiB on. Memory is taken as it fills.

    Raises:
        ValueError: so many bytes make no sense.
        OSError: this system has no memory that processes share, as Windows.
    """

    def __init__(self, num_bytes: int, arena: Arena | None = None) -> None:
        checked_bytes(num_bytes)
        if not CAN_SHARE:
            raise OSError("this system has no memory that processes share, which a cache of decoded exemplars needs")
        self._arena = Arena(num_bytes) if arena is None else arena
        super().__init__(num_bytes, self._arena.log_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        if multiprocessing.context.get_spawning_popen() is None:
            # Pickled for anything else than a process that starts now, its file cannot go along.
            return shared_cache, (self.num_bytes,)
        return _attached, (multiprocessing.reduction.DupFd(self._arena.descriptor), self.num_bytes)

    def find(self, scope: int, fingerprints: Mapping[int, int]) -> dict[int, tuple[Any, bytes]]:
        return dict(self._arena.find(scope, fingerprints))

    def gather(
        self, entries: Mapping[int, Entry], patch_valid: NDArray[np.bool_], patches: NDArray[np.uint8]
    ) -> list[int]:
        clear_padding(patch_valid, patches)
        flat = patches.reshape(len(patches), -1)
        for row, entry in entries.items():
            flat[row, : entry.pixel_bytes] = self._arena.pixels(entry)
        rows = list(entries)
        return [rows[place] for place in self._arena.lost(list(entries.values()))]

    def put(
        self, scope: int, exemplar_id: int, fingerprint: int, front: bytes, pixels: NDArray[np.uint8] | None
    ) -> None:
        try:
            self._arena.put(scope, exemplar_id, fingerprint, front, pixels)
        except OSError as error:
            self.tell_once(f"decoded exemplars are not kept: {error}")


def default_bytes() -> int:
    """256 MiB, or a sixteenth of the memory that this process may use where that is less; 0 where no memory can be
    shared."""
    if not CAN_SHARE:
        return 0
    return max(LEAST_BYTES, min(_DEFAULT_BYTES, memory_bytes() // _PART_OF_MEMORY))


def default_cache() -> ExemplarCache | None:
    """The cache of who did not ask for one: of :func:`default_bytes`. None where there is no memory for it, which is
    logged: a limit (``ulimit``), or a system that has no such files."""
    num_bytes = default_bytes()
    try:
        return shared_cache(num_bytes) if num_bytes else None
    except OSError as error:
        log.warning(
            "decoded exemplars are not kept: there is no cache of %d bytes (%s); give cache_bytes less, or 0 for none",
            num_bytes,
            error,
        )
        return None


def shared_cache(num_bytes: int) -> ExemplarCache:
    """The cache of this process of that size, made when it is first asked for.

    It lasts as long as somebody uses it, and after that until another size is asked for: a data set that takes the
    place of another finds what that one had decoded.

    Raises:
        ValueError, OSError: as :class:`ExemplarCache`.
    """
    global _latest
    with _lock:
        cache = _by_size.get(num_bytes)
        if cache is None:
            cache = _by_size[num_bytes] = ExemplarCache(num_bytes)
        _latest = cache
        return cache


def scope_of(url: str, buffer: str, created_at: float) -> int:
    """A number that stands for one buffer of one service, and for none that later has its name."""
    said = f"{url} {buffer} {created_at!r}".encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little")


def checked_bytes(num_bytes: int) -> int:
    """A cache's size.

    Raises:
        ValueError: so many bytes make no sense.
    """
    return whole("cache_bytes", num_bytes, LEAST_BYTES, MOST_BYTES)


def _attached(given: Any, num_bytes: int) -> ExemplarCache:
    """The cache of the process that started this one."""
    global _latest
    cache = ExemplarCache(num_bytes, Arena(num_bytes, given.detach()))
    with _lock:
        _by_size[num_bytes] = _latest = cache
    return cache


_lock = threading.Lock()
_by_size: weakref.WeakValueDictionary[int, ExemplarCache] = weakref.WeakValueDictionary()
_latest: ExemplarCache | None = None


def _start_anew() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
