"""Contestants that keep records in files: a raw file (the limit) and LMDB."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from benchmarks.common.records import Batch
from benchmarks.common.rounds import timed
from benchmarks.storage.contestants.peer import Peer, Read


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
