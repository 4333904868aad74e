"""Contestants of the storage benchmark that keep records in files: a raw file (the limit) and LMDB.

What each does for a sample is the same work: draw ``count`` records uniformly with replacement, and hold their
bytes in a form that can be sent on or decoded.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.storage_records import Batch
from benchmarks.storage_rounds import timed
from benchmarks.storage_system import forget

Read = Callable[[int], float]
"""Draws a batch of that many records and returns the seconds that it took."""


PIXELS_NOT_MEDIUM = "pixels are six times the encoded bytes, 12 GB"
PIXELS_NOT_MANY = "small records are noise, no pictures"


class Peer(abc.ABC):
    """One contestant, with a directory of its own.

    Args:
        directory: made by the contestant; everything that it stores is below it.
        capacity: the most records that will be stored.
        max_body: the longest body, in bytes.
    """

    name: ClassVar[str]
    note: ClassVar[str] = ""
    """What a reader of the table has to know."""
    on_disk: ClassVar[bool] = True
    not_medium: ClassVar[str] = ""
    """Why it does not take part with 100,000 records of 20 kB; empty where it does."""
    not_many: ClassVar[str] = ""
    """The same with a million small records."""

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        self.directory = directory
        self.capacity = capacity
        self.max_body = max_body
        self.count = 0
        directory.mkdir(parents=True, exist_ok=True)
        self.rng = np.random.default_rng(0)

    def contents(self, batch: Batch) -> Sequence[bytes]:
        """What this contestant stores of a batch, one string a record."""
        return batch.bodies

    @abc.abstractmethod
    def push(self, batch: Batch) -> None:
        """Store a batch, on disk when it returns."""

    def time_push(self, batch: Batch) -> float:
        """Seconds of a push. The forms that the contestant takes are made before the clock starts."""
        self.contents(batch)
        return timed(lambda: self.push(batch))

    def fill(self, batch: Batch) -> None:
        """As :meth:`push`, where nobody waits for the disk."""
        self.push(batch)

    @abc.abstractmethod
    def sample(self, count: int) -> object:
        """Draw a batch."""

    @abc.abstractmethod
    def contents_of(self, sampled: object) -> list[bytes]:
        """The bytes of each record in what :meth:`sample` gave."""

    def drawn_contents(self, count: int) -> list[bytes]:
        """Draw a batch and give its records' bytes."""
        return self.contents_of(self.sample(count))

    def reads(self) -> dict[str, Read]:
        """The ways to draw a batch, by the name that tables show."""
        return {self.name: lambda count: timed(lambda: self.sample(count))}

    def forget(self) -> None:
        """Drop what the page cache holds of this contestant."""
        forget(self.directory)

    def close(self) -> None:  # noqa: B027 - some have nothing to close
        """Release files and processes."""


class RawFile(Peer):
    """Bodies end to end in one file, their offsets in memory: nothing durable can be faster."""

    name = "raw file + memmap"
    note = "the limit: no index, no checks, nothing can be removed"

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        super().__init__(directory, capacity=capacity, max_body=max_body)
        self._path = directory / "records"
        self._file = self._path.open("a+b", buffering=0)
        self._ends = [0]
        self._view: memoryview | None = None

    def push(self, batch: Batch) -> None:
        self._view = None
        self._file.write(b"".join(batch.bodies))
        os.fsync(self._file.fileno())
        end = self._ends[-1]
        for body in batch.bodies:
            end += len(body)
            self._ends.append(end)

    def sample(self, count: int) -> list[bytes]:
        view, ends = self._mapped(), self._ends
        places = self.rng.integers(0, len(ends) - 1, count).tolist()
        return [bytes(view[ends[i] : ends[i + 1]]) for i in places]

    def contents_of(self, sampled: object) -> list[bytes]:
        assert isinstance(sampled, list)
        return sampled

    def reads(self) -> dict[str, Read]:
        # Cold, a map reads ahead at every fault, much of it for nothing: the limit there is one pread a record.
        return super().reads() | {"raw file + pread": lambda count: timed(lambda: self._sample_with_pread(count))}

    def _sample_with_pread(self, count: int) -> list[bytes]:
        ends, descriptor = self._ends, self._file.fileno()
        places = self.rng.integers(0, len(ends) - 1, count).tolist()
        return [os.pread(descriptor, ends[i + 1] - ends[i], ends[i]) for i in places]

    def forget(self) -> None:
        self._view = None  # unmaps, so that the cache may drop the pages
        super().forget()
        self._mapped()

    def close(self) -> None:
        self._view = None
        self._file.close()

    def _mapped(self) -> memoryview:
        if self._view is None:
            self._view = np.memmap(self._path, dtype=np.uint8, mode="r").data
        return self._view


class Lmdb(Peer):
    """One put a record, one transaction a push, synchronous commits."""

    name = "LMDB"
    note = "no budget, no sampler: keys are drawn from a dense range"

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        super().__init__(directory, capacity=capacity, max_body=max_body)
        self._open()

    def push(self, batch: Batch) -> None:
        with self._environment.begin(write=True) as transaction:
            for key, body in enumerate(batch.bodies, self.count):
                transaction.put(key.to_bytes(8, "big"), body, append=True)
        self.count += len(batch)

    def sample(self, count: int) -> list[bytes]:
        keys = self.rng.integers(0, self.count, count).tolist()
        with self._environment.begin() as transaction:
            return [transaction.get(key.to_bytes(8, "big"), b"") for key in keys]

    def contents_of(self, sampled: object) -> list[bytes]:
        assert isinstance(sampled, list)
        return sampled

    def forget(self) -> None:
        self._environment.close()
        super().forget()
        self._open()

    def close(self) -> None:
        self._environment.close()

    def _open(self) -> None:
        import lmdb

        # Whole pages a record, the tree above them, and room for the copies that a transaction makes.
        size = self.capacity * (self.max_body + 2 * 4096) * 2 + 2**26
        self._environment = lmdb.open(os.fspath(self.directory), map_size=size, sync=True, metasync=True)
