"""Replay batches as a torch data set that fetches ahead, so that training does not wait for the memory.

This and :mod:`client.device_jpeg` are the modules here that import torch.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from client._params import Many
from client.batch import ReplayBatch
from client.buffer import Buffer, Strategy
from client.device_jpeg import decode_patches, require_torchvision
from memory_format import FormatError

TensorBatch: TypeAlias = dict[str, torch.Tensor]

ARRAYS = (
    "exemplar_id",
    "class_id",
    "phase",
    "score",
    "rank",
    "grid",
    "patches",
    "patch_positions",
    "patch_valid",
    "token_ids",
    "token_positions",
    "token_valid",
    "text_length",
)
"""The arrays of :class:`~client.batch.ReplayBatch` that become tensors, under their own names."""


ARRAYS_PREFIX = "arrays."
"""What stands before the names of the user's own arrays."""


def to_tensors(batch: ReplayBatch) -> TensorBatch:
    """The arrays of a batch as tensors that share its memory; see :class:`~client.batch.ReplayBatch`.

    The user's own arrays come too, as ``arrays.NAME``: float32 ``(B, ...)``, padded with NaN to the largest, all of it
    NaN where a record has none of that name.

    Raises:
        FormatError: arrays of one name have different numbers of axes.
    """
    tensors = {name: torch.from_numpy(getattr(batch, name)) for name in ARRAYS}
    found = [record.arrays() if record.extras else {} for record in batch.records]
    for name in sorted({name for arrays in found for name in arrays}):
        tensors[ARRAYS_PREFIX + name] = torch.from_numpy(_padded(name, [arrays.get(name) for arrays in found]))
    return tensors


def _padded(name: str, rows: list[NDArray[np.float16] | None]) -> NDArray[np.float32]:
    shapes = [row.shape for row in rows if row is not None]
    if len({len(shape) for shape in shapes}) > 1:
        raise FormatError(f"array {name!r} has {sorted(map(len, shapes))} axes in records of one batch")
    padded = np.full((len(rows), *np.max(shapes, axis=0).tolist()), np.nan, dtype=np.float32)
    for place, row in enumerate(rows):
        if row is not None:
            corner = tuple(slice(length) for length in row.shape)
            padded[place][corner] = row
    return padded


class ReplayDataset(IterableDataset[TensorBatch]):
    """Batches of a buffer, drawn by the service from ``(seed, step)`` and fetched by a thread ahead of their
    use.

    Yields a dict of tensors (:func:`to_tensors`, and ``step``, a scalar) for each step. As long as the buffer
    does not change, and of a snapshot always, the same seed and step give the same batch, whatever
    ``prefetch``, ``threads`` and the number of workers are.

    Give it to ``DataLoader(dataset, batch_size=None)``, or iterate over it: with its own threads it needs no
    worker processes. With W of them, worker i takes steps i, i + W, ..., so every batch is drawn once and in
    order. For distributed training give every rank a seed of its own.

    An error on the way is raised where the batch would have been. Leaving a loop early, ``close()`` on the
    iterator or its garbage collection ends the threads.

    Args:
        buffer: where to draw from. Each iterator (and worker process) opens connections of its own.
        batch_size: B, records a batch.
        start_step: the first step, to go on where an earlier run stopped.
        num_steps: how many; None = without end.
        strategy, replace, class_id, phase, learner_id, repair_text, snapshot: as in
            :meth:`client.buffer.Buffer.sample`.
        prefetch: most batches held or on their way while the consumer is busy.
        threads: batches fetched and decoded at the same time.
        decode_threads: as in :meth:`client.batch.ReplayBatch.from_records`.
        pin_memory: put tensors into page-locked memory, as torch's ``DataLoader`` does with the same argument: copies
            to a GPU then go on beside its work (``tensor.to(device, non_blocking=True)``). Needs a GPU.
        decode_device: decode JPEG payloads onto this device, where ``patches`` then are
            (:mod:`client.device_jpeg`); other codecs are refused.

    Raises:
        ValueError: a number above that makes no sense, or there is no GPU to lock pages for.
        MissingLibraryError: ``decode_device`` without torchvision.
    """

    def __init__(
        self,
        buffer: Buffer,
        batch_size: int,
        *,
        seed: int = 0,
        start_step: int = 0,
        num_steps: int | None = None,
        strategy: Strategy = "uniform",
        replace: bool = True,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        repair_text: float = 0.0,
        snapshot: str | None = None,
        prefetch: int = 4,
        threads: int = 1,
        decode_threads: int | None = None,
        pin_memory: bool = False,
        decode_device: torch.device | str | None = None,
    ) -> None:
        if batch_size < 1 or prefetch < 1 or threads < 1:
            raise ValueError(f"batch_size, prefetch and threads start at 1, got {batch_size}, {prefetch} and {threads}")
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory needs a GPU, and torch finds none here")
        if start_step < 0 or (num_steps is not None and num_steps < 0):
            raise ValueError(f"start_step and num_steps cannot be negative, got {start_step} and {num_steps}")
        self.buffer = buffer
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.num_steps = num_steps
        self.strategy = strategy
        self.replace = replace
        self.class_id = class_id
        self.phase = phase
        self.learner_id = learner_id
        self.repair_text = repair_text
        self.snapshot = snapshot
        self.prefetch = prefetch
        self.threads = threads
        self.decode_threads = decode_threads
        self.pin_memory = pin_memory
        self.decode_device = None if decode_device is None else torch.device(decode_device)
        if self.decode_device is not None:
            require_torchvision()
        self.wait_seconds = 0.0
        """Seconds that consumers in this process waited for batches, over all iterators. Reset it at will."""

    def __iter__(self) -> PrefetchIterator:
        return PrefetchIterator(self, self._steps())

    def _steps(self) -> Iterator[int]:
        worker = get_worker_info()
        shard, shards = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.start_step + shard
        if self.num_steps is None:
            return itertools.count(first, shards)
        return iter(range(first, self.start_step + self.num_steps, shards))

    def _fetcher(self, buffer: Buffer) -> Callable[[int], TensorBatch]:
        """What a thread runs. It holds no reference to the iterator, which could then never be collected."""
        batch_size, seed, strategy, replace = self.batch_size, self.seed, self.strategy, self.replace
        class_id, phase, learner_id = self.class_id, self.phase, self.learner_id
        repair_text, snapshot, decode_threads = self.repair_text, self.snapshot, self.decode_threads
        pin_memory, decode_device = self.pin_memory, self.decode_device

        def fetch(step: int) -> TensorBatch:
            batch = buffer.sample(
                batch_size,
                seed=seed,
                step=step,
                strategy=strategy,
                replace=replace,
                class_id=class_id,
                phase=phase,
                learner_id=learner_id,
                repair_text=repair_text,
                snapshot=snapshot,
                decode_threads=decode_threads,
                pixels=decode_device is None,
            )
            tensors = {**to_tensors(batch), "step": torch.tensor(step)}
            if decode_device is not None:
                tensors["patches"] = decode_patches(batch.records, decode_device)
            if pin_memory:
                tensors = {name: value if value.is_cuda else value.pin_memory() for name, value in tensors.items()}
            return tensors

        return fetch


class PrefetchIterator(Iterator[TensorBatch]):
    """Batches in the order of their steps, the next ones already on their way."""

    def __init__(self, dataset: ReplayDataset, steps: Iterator[int]) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._dataset = dataset
        self._steps = steps
        self._client = dataset.buffer.client.clone()
        self._fetch = dataset._fetcher(Buffer(self._client, dataset.buffer.name))
        self._pending: deque[Future[TensorBatch]] = deque()
        self._pool = ThreadPoolExecutor(dataset.threads, thread_name_prefix="replay-prefetch")
        for _ in range(dataset.prefetch):
            self._submit()

    def __next__(self) -> TensorBatch:
        if not self._pending:
            self.close()
            raise StopIteration
        started = time.perf_counter()
        try:
            batch = self._pending.popleft().result()
        except BaseException:
            self.close()
            raise
        finally:
            self._dataset.wait_seconds += time.perf_counter() - started
        self._submit()
        return batch

    def close(self) -> None:
        """End the threads. A request in flight is waited for, its retries are not."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        self._pending.clear()
        self._client.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def __del__(self) -> None:
        self.close()

    def _submit(self) -> None:
        step = next(self._steps, None)
        if step is not None and self._pool is not None:
            self._pending.append(self._pool.submit(self._fetch, step))
