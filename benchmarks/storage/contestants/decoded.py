"""Exemplars in a trainer's hands: the first time, from the second time on, and what decoding alone takes."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.common.rounds import timed
from benchmarks.common.service import steps
from benchmarks.storage.contestants.peer import Read
from client import ExemplarCache, MemoryClient, ReplayBatch
from client.cache import default_bytes
from memory_format import check_batch, encode_batch, read_batch

AGAIN = "ours, client, decoded before"
FIRST = "ours, client, decoded the first time"
DECODER = "the decoder alone, decoded from memory"

MOST_RECORDS = 1_500
"""Of 20 kB, whose pixels fit the cache of a data set that was not told a size."""


class Decoding:
    """The client as a data set uses it, up to the tensors.

    Args:
        url: of the service.
        buffer: what is drawn from; nobody changes it any more.
    """

    def __init__(self, url: str, buffer: str) -> None:
        self._client = MemoryClient(url)
        self._buffer = self._client.buffer(buffer)
        self._cache = ExemplarCache(default_bytes())
        self._count = self._buffer.info().num_records
        self._is_full = False

    def reads(self) -> Mapping[str, Read]:
        """The ways to draw a batch."""
        return {AGAIN: self._again, FIRST: self._first, DECODER: self._decoder}

    def _again(self, count: int) -> float:
        if not self._is_full:
            self._draw(self._count, self._cache, replace=False)
            self._is_full = True
        decoded = self._cache.decoded
        seconds = timed(lambda: self._draw(count, self._cache, replace=True))
        if self._cache.decoded != decoded:
            raise AssertionError("not all of them had been decoded before")
        return seconds

    def _first(self, count: int) -> float:
        cache = ExemplarCache(self._cache.num_bytes)
        return timed(lambda: self._draw(count, cache, replace=False))

    def _decoder(self, count: int) -> float:
        records = self._buffer.sample(count, replace=False, step=next(steps), pixels=False).records
        batch = read_batch(encode_batch(records))
        check_batch(batch)
        return timed(lambda: ReplayBatch.from_batch(batch))

    def _draw(self, count: int, cache: ExemplarCache, *, replace: bool) -> None:
        from client.tensors import to_tensors

        to_tensors(self._buffer.sample(count, step=next(steps), replace=replace, cache=cache))

    def close(self) -> None:
        self._client.close()
