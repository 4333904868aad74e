"""The iterator over a data set's batches: their threads, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from client._position import Place, Position
from client._session import Connected
from client.prefetch import Prefetched
from client.tensors import TensorBatch


class PrefetchIterator(Iterator[TensorBatch]):
    """Batches in the order of their steps, the next ones already on their way.

    Nothing is asked of the service before the first one is. From then on it belongs to the process that it is in: its
    threads do not follow into a forked one.

    Args:
        begin: makes a client of its own, and what fetches with it the batches of these steps.
        position: says which steps, what is left of an epoch or a worker's share of that, and is told of each batch that
            was given.
        waited: is told the seconds that each batch was waited for.
    """

    def __init__(
        self,
        begin: Callable[[range], tuple[Connected, Prefetched[int, TensorBatch]]],
        position: Position,
        waited: Callable[[float], None],
    ) -> None:
        self._begin = begin
        self._position = position
        self._name, self._shards = position.iterate()
        self._next = Place(0, 0, 0)
        self._waited = waited
        self._client: Connected | None = None
        self._batches: Prefetched[int, TensorBatch] | None = None
        self._is_over = False

    def __next__(self) -> TensorBatch:
        started = time.perf_counter()
        try:
            if self._batches is None:
                if self._is_over:
                    raise StopIteration
                self._next, end = self._position.begin(self._name)
                self._client, self._batches = self._begin(range(self._next.step, end, self._shards))
            batch = next(self._batches)
            self._next = Place(self._next.epoch, self._next.step + self._shards, int(batch["version"]))
            self._position.moved(self._next)
            return batch
        except StopIteration:
            # A worker cannot say it for the others: for it the epoch goes on.
            if not (self._is_over or self._name):
                self._position.moved(None)
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        finally:
            self._waited(time.perf_counter() - started)

    def close(self) -> None:
        """End the threads, and the requests that they wait for."""
        self._is_over = True
        client, self._client = self._client, None
        if client is not None and self._batches is not None:
            self._batches.close()
            client.close()

    def __del__(self) -> None:
        self.close()
