"""This project's store and service, as contestants: the one place that knows how to call them.

When the store's interface changes, :class:`InProcess` and :func:`_encoded` are what to adapt, and
:class:`~benchmarks.common.service.Service`.
"""

from __future__ import annotations

import collections
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx

from benchmarks.common.processes import ChildProcess, python_module
from benchmarks.common.records import Batch
from benchmarks.common.rounds import timed
from benchmarks.common.service import Service, steps
from benchmarks.storage.contestants.decoded import MOST_RECORDS, Decoding
from benchmarks.storage.contestants.peer import Peer, Read
from client import MemoryClient, ReplayBatch
from client._local import read_whole
from memory_format import Record, check_batch, decode_batch, encode_batch, read_batch
from memory_format.api.terms import Strategy
from memory_service.store import Store
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest

BUFFER = "records"
STRATEGIES: tuple[Strategy, ...] = ("uniform", "class_balanced")
AHEAD = "ours, HTTP, fetched ahead"
DECODED = "ours, HTTP, decoded"
LOCAL = "ours, on one machine"
LOCAL_AHEAD = "ours, on one machine, asked ahead"

_ROOMY = 2**40
_IN_FLIGHT = 2
_AHEAD_BATCHES = 6


def open_store(directory: Path) -> Store:
    """Open or make a store."""
    return Store(directory, Options())


class InProcess(Peer):
    """``memory_service.store`` called from this process."""

    name = "ours, in-process"
    note = "checked, each payload decoded once, indexed, evictable; sample = the encoded Arrow answer"
    trusted: ClassVar[bool] = False

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        super().__init__(directory, capacity=capacity, max_body=max_body)
        self.reopen()

    def push(self, batch: Batch) -> None:
        self._buffer.push(batch.arrow, trusted=self.trusted)

    def time_push(self, batch: Batch) -> float:
        body = batch.arrow
        return timed(lambda: self._buffer.push(body, trusted=self.trusted))

    def push_to(self, name: str, batch: Batch) -> None:
        """Store a batch in another buffer of the same store."""
        buffer, _ = self._store.create_buffer(name, budget_bytes=_ROOMY)
        buffer.push(batch.arrow)

    def sample(self, count: int) -> object:
        return self.sample_from(BUFFER, count)

    def sample_from(self, name: str, count: int, strategy: Strategy = "uniform") -> object:
        """An encoded batch from a buffer."""
        request = SampleRequest(batch_size=count, seed=0, step=next(steps), strategy=strategy)
        return _encoded(self._store.buffer(name).sample(request))

    def contents_of(self, sampled: object) -> list[bytes]:
        return [record.body for record in decode_batch(bytes(cast(bytes, sampled)))]

    def reopen(self) -> None:
        """Open the store again after :meth:`close`."""
        self._store = open_store(self.directory)
        self._buffer, _ = self._store.create_buffer(BUFFER, budget_bytes=_ROOMY)

    def close(self) -> None:
        self._store.close()


class Trusted(InProcess):
    """The same for a pusher who is trusted: no payload is decoded, as others decode none."""

    name = "ours, in-process, trusted"
    note = "as above, but payloads are not decoded before they are stored"
    trusted = True


def _encoded(answer: Any) -> Any:
    """What a sample of the store gives, as the bytes that would be sent."""
    content = answer[0] if isinstance(answer, tuple) else answer
    if isinstance(content, list) and (not content or isinstance(content[0], Record)):
        return encode_batch(content)
    return content


class OverHttp(Peer):
    """The service, asked with a plain HTTP client. Starts on whatever store lies in ``directory / "store"``."""

    name = "ours, HTTP"
    note = "a server in another process; the answer's bytes, not decoded"

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        super().__init__(directory, capacity=capacity, max_body=max_body)
        self.data = directory / "store"
        self.service = Service(self.data)
        self.service.create_buffer(BUFFER, _ROOMY)
        self._decoding: Decoding | None = None
        self._client = MemoryClient(self.service.url)
        # The first answer says where it hands files over.
        self._client.buffer(BUFFER).info()

    def push(self, batch: Batch) -> None:
        self.service.push(BUFFER, batch.arrow)

    def time_push(self, batch: Batch) -> float:
        body = batch.arrow
        return timed(lambda: self.service.push(BUFFER, body))

    def sample(self, count: int) -> bytes:
        return self.service.sample(BUFFER, count)

    def contents_of(self, sampled: object) -> list[bytes]:
        return [record.body for record in decode_batch(cast(bytes, sampled))]

    def reads(self) -> dict[str, Read]:
        if self.capacity <= MOST_RECORDS:
            self._decoding = self._decoding or Decoding(self.service.url, BUFFER)
        return {
            **(self._decoding.reads() if self._decoding else {}),
            self.name: lambda count: timed(lambda: self.sample(count)),
            "ours, HTTP, records": lambda count: timed(lambda: decode_batch(self.sample(count))),
            AHEAD: self._fetched_ahead,
            DECODED: lambda count: timed(lambda: _decoded(self.sample(count))),
            LOCAL: lambda count: timed(lambda: self._drawn_locally(count, next(steps))),
            LOCAL_AHEAD: self._asked_ahead,
        }

    def _drawn_locally(self, count: int, step: int, next_step: int | None = None) -> None:
        """The same records, which this process reads from the service's files by itself."""
        wanted = {"batch_size": count, "seed": 0, "step": step}
        if self._client.session.draw_locally(BUFFER, wanted, read_whole, next_step) is None:
            raise AssertionError("the service handed over no files")

    def _asked_ahead(self, count: int) -> float:
        """Seconds a batch where the next is asked for before this one is read, as the client's data set does in its one
        thread while it is waited for."""
        numbers = [next(steps) for _ in range(_AHEAD_BATCHES + 1)]
        self._drawn_locally(count, *numbers[:2])

        def draw() -> None:
            for step, following in zip(numbers[1:], [*numbers[2:], None], strict=True):
                self._drawn_locally(count, step, following)

        return timed(draw) / _AHEAD_BATCHES

    def _fetched_ahead(self, count: int) -> float:
        """Seconds a batch while the next is on its way, as the client's data set fetches."""
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            waiting = collections.deque(pool.submit(self.sample, count) for _ in range(_IN_FLIGHT))
            waiting.popleft().result()

            def fetch() -> None:
                for _ in range(_AHEAD_BATCHES):
                    waiting.append(pool.submit(self.sample, count))
                    waiting.popleft().result()

            return timed(fetch) / _AHEAD_BATCHES

    def close(self) -> None:
        if self._decoding:
            self._decoding.close()
        self._client.close()
        self.service.close()


class BareServer:
    """:mod:`benchmarks.storage.bare` in a process of its own: as many bytes, from memory."""

    name = "bare uvicorn"
    note = "the limit over HTTP: no framework, no store, equal bytes from memory"

    def __init__(self, log: Path, num_bytes: int) -> None:
        self._process = ChildProcess(python_module("benchmarks.storage.bare"), log)
        self._http = httpx.Client(base_url=self._process.first_line, timeout=60.0, trust_env=False)
        self._path = f"/{num_bytes}"

    def read(self, count: int) -> float:
        """Seconds to fetch the bytes of a batch."""
        wanted = {"batch_size": count, "seed": 0, "step": next(steps), "strategy": "uniform"}
        return timed(lambda: self._http.post(self._path, json=wanted).content)

    def close(self) -> None:
        self._http.close()
        self._process.close()


def _decoded(answer: bytes) -> ReplayBatch:
    """What :meth:`client.Buffer.sample` makes of an answer."""
    batch = read_batch(answer)
    check_batch(batch)
    return ReplayBatch.from_batch(batch)
