"""Replay batches as a torch data set that fetches ahead, so that training does not wait for the memory.

This, :mod:`client.tensors` and :mod:`client.device_jpeg` are the modules here that import torch.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from client._params import Many, whole
from client._session import Connected
from client.buffer import Buffer
from client.cache import PixelCache, default_bytes, shared_cache
from client.device_cache import device_cache
from client.device_jpeg import decode_patches, require_torchvision
from client.prefetch import Prefetched
from client.tensors import ReplayTensors, TensorBatch, to_tensors
from memory_format import ConflictError
from memory_format.api.terms import Strategy

_MOST_AHEAD = 1024
_ENDLESS = 2**32
"""Steps from one epoch to the next where an epoch has no end of its own."""

_MOST_EPOCHS = 2**30
_EPOCH, _FIRST_STEP, _MIN_VERSION = range(3)
"""What a data set shares with its copies in worker processes, by place."""


class ReplayDataset(IterableDataset[TensorBatch]):
    """Batches of a buffer, drawn by the service from ``(seed, step)`` and fetched by a thread ahead of their
    use.

    Yields a dict of tensors (:func:`client.tensors.to_tensors`, and the scalars ``step`` and ``version``) for each
    step. As long as the buffer does not change, and of a snapshot always, the same seed and step give the same batch,
    whatever ``prefetch``, ``threads`` and the number of workers are.

    Give it to ``DataLoader(dataset, batch_size=None)``, or iterate over it: with its own threads it needs no
    worker processes. With W of them, worker i takes steps i, i + W, ..., so every batch is drawn once and in
    order.

    Each iteration is the next epoch: epoch e takes the ``num_steps`` steps from ``start_step + e * num_steps`` on, so
    no batch comes again before :meth:`set_epoch` asks for it. In distributed training each rank draws batches of its
    own: rank r of R draws step s as ``sample(step=s * R + r)`` does.

    An error on the way is raised where the batch would have been. Leaving a loop early, ``close()`` on the
    iterator or its garbage collection ends the threads.

    Args:
        buffer: where to draw from. Each iterator (and worker process) opens connections of its own.
        batch_size: B, records a batch.
        start_step: the first step of all, to go on where an earlier run stopped.
        num_steps: steps of an epoch, on each rank; None = without end.
        rank, world_size: which of how many processes this one is; None = as ``torch.distributed`` says where it is
            initialised when an iteration begins, else the only one.
        strategy, replace, class_id, phase, learner_id, repair_text, snapshot: as in
            :meth:`client.buffer.Buffer.sample`.
        prefetch: most batches held or on their way while the consumer is busy.
        threads: batches fetched and decoded at the same time.
        decode_threads: as in :meth:`client.batch.ReplayBatch.from_records`.
        cache_bytes: memory for decoded exemplars (:class:`client.cache.ExemplarCache`), which are fetched and decoded
            once then. Data sets of one process with the same number share it, and so do its workers. Memory is taken
            as it fills. 0 = none; None = 256 MiB, or a sixteenth of the machine's memory where that is less, and none
            with ``decode_device``.
        cache_device: keep them on this device, where ``patches`` then are (:mod:`client.device_cache`); default
            ``decode_device``. The memory is taken at once, and is this process's own.
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
        rank: int | None = None,
        world_size: int | None = None,
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
        cache_bytes: int | None = None,
        cache_device: torch.device | str | None = None,
        pin_memory: bool = False,
        decode_device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(buffer, Buffer):
            raise ValueError(f"buffer must be one of a MemoryClient, got {buffer!r:.100}")
        for name, value, lowest, highest in (
            ("batch_size", batch_size, 1, 2**31),
            ("prefetch", prefetch, 1, _MOST_AHEAD),
            ("threads", threads, 1, _MOST_AHEAD),
            ("seed", seed, 0, 2**63 - 1),
            ("start_step", start_step, 0, 2**62),
            ("num_steps", 0 if num_steps is None else num_steps, 0, _ENDLESS),
        ):
            whole(name, value, lowest, highest)
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank and world_size go together, got {rank} and {world_size}")
        if rank is not None and whole("rank", rank, 0) >= whole("world_size", world_size, 1):
            raise ValueError(f"ranks are 0..world_size - 1, got rank {rank} of {world_size}")
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory needs a GPU, and torch finds none here")
        self.buffer = buffer
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.num_steps = num_steps
        self.rank = rank
        self.world_size = world_size
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
        self.cache = _cache(cache_bytes, cache_device, self.decode_device)
        self.wait_seconds = 0.0
        """Seconds that consumers in this process waited for batches, over all iterators. Reset it at will."""
        self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._begun_by_worker: dict[int, int] = {}

    def __len__(self) -> int:
        """Steps of an epoch.

        Raises:
            TypeError: it has no end.
        """
        if self.num_steps is None:
            raise TypeError("this ReplayDataset has no length: it goes on without end, unless it is given num_steps")
        return self.num_steps

    def __bool__(self) -> bool:
        return True  # not a matter of its length, which it need not have

    def __iter__(self) -> PrefetchIterator:
        client = self.buffer.client.clone()
        batches = Prefetched(
            self._fetcher(Buffer(client, self.buffer.name)),
            self._steps(),
            ahead=self.prefetch,
            threads=self.threads,
            is_stale=self._is_old,
            name="replay-prefetch",
        )
        return PrefetchIterator(self, batches, client)

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_begun_by_worker": {}}
        if _is_distributed():
            # A spawned worker is not in the group.
            state["rank"], state["world_size"] = self._world()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # it is, in a worker; in a copy that was made otherwise it is another one

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration, of workers too, that of this epoch, from its first step on."""
        self._shared[_FIRST_STEP] = 0
        self._shared[_EPOCH] = whole("epoch", epoch, 0, _MOST_EPOCHS) << 32

    def seek(self, step: int) -> None:
        """Make the next iteration begin at this step, within the epoch that the step is of; epochs follow as ever.

        To go on after ``batch``, seek ``int(batch["step"]) + 1``: nothing is drawn again to get there.
        """
        past = whole("step", step, self.start_step) - self.start_step
        self._shared[_EPOCH] = past // self._epoch_steps() << 32
        self._shared[_FIRST_STEP] = step

    def set_min_version(self, version: int) -> None:
        """From now on, give no batch that was drawn before the buffer was at this version.

        Those fetched ahead are drawn again, of the same steps: after ``dataset.set_min_version(buffer.delete(...)
        .version)`` no batch that an iterator in this process gives holds what was deleted. Worker processes heed it
        too, but what they had already handed to their ``DataLoader`` must go through :meth:`renew`.

        Raises:
            ValueError: the data set reads a snapshot, which does not change.
        """
        if self.snapshot is not None:
            raise ValueError(f"snapshot {self.snapshot!r} stays at its version: no other can be asked for")
        self._shared[_MIN_VERSION] = whole("version", version, 0)

    def renew(self, batch: TensorBatch) -> TensorBatch:
        """The batch, or the same step drawn again where it is older than :meth:`set_min_version` allows.

        For a loader with workers: ``for batch in map(dataset.renew, loader)``.
        """
        return self._fetcher(self.buffer)(int(batch["step"])) if self._is_old(batch) else batch

    def _is_old(self, batch: TensorBatch) -> bool:
        return int(batch["version"]) < int(self._shared[_MIN_VERSION])

    def _epoch_steps(self) -> int:
        return _ENDLESS if self.num_steps is None else max(1, self.num_steps)

    def _world(self) -> tuple[int, int]:
        if self.rank is not None and self.world_size is not None:
            return self.rank, self.world_size
        if _is_distributed():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _steps(self) -> Iterator[int]:
        worker = get_worker_info()
        shard, shards = (worker.id, worker.num_workers) if worker else (0, 1)
        begin = self.start_step + self._begin_epoch() * self._epoch_steps()
        end = begin + (_ENDLESS if self.num_steps is None else self.num_steps)
        return iter(range(max(begin, int(self._shared[_FIRST_STEP])) + shard, end, shards))

    def _begin_epoch(self) -> int:
        """The number of the epoch that begins: one more than the last, and the same for all workers of a loader.

        One number, which is read and written whole, says which is next (above) and who began the last one (the lower
        32 bits). All workers of an iteration have the loader's seed for it in common; persistent ones keep that seed
        and begin again together.
        """
        number = int(self._shared[_EPOCH])
        following, begun_by = number >> 32, number & 0xFFFFFFFF
        worker, name = get_worker_info(), 0
        if worker is not None:
            times = self._begun_by_worker[worker.id] = self._begun_by_worker.get(worker.id, 0) + 1
            name = zlib.crc32(f"{worker.seed - worker.id} {times}".encode()) or 1
            if name == begun_by:
                return following - 1
        self._shared[_EPOCH] = (following + 1) << 32 | name
        return following

    def _fetcher(self, buffer: Buffer) -> Callable[[int], TensorBatch]:
        """What a thread runs. It holds no reference to the iterator, which could then never be collected."""
        batch_size, seed, strategy, replace = self.batch_size, self.seed, self.strategy, self.replace
        class_id, phase, learner_id = self.class_id, self.phase, self.learner_id
        repair_text, snapshot, decode_threads = self.repair_text, self.snapshot, self.decode_threads
        cache, pin_memory, decode_device = self.cache, self.pin_memory, self.decode_device
        rank, world_size = self._world()
        shared = self._shared

        def fetch(step: int) -> TensorBatch:
            min_version = int(shared[_MIN_VERSION])
            batch = buffer.sample(
                batch_size,
                seed=seed,
                step=step * world_size + rank,
                strategy=strategy,
                replace=replace,
                class_id=class_id,
                phase=phase,
                learner_id=learner_id,
                repair_text=repair_text,
                snapshot=snapshot,
                decode_threads=decode_threads,
                pixels=decode_device is None or cache is not None,
                cache=cache,
            )
            if batch.version < min_version:
                raise ConflictError(
                    f"the buffer is at version {batch.version}, batches of {min_version} or later are asked for",
                    code="stale_version",
                )
            tensors = to_tensors(batch)
            tensors |= {"step": torch.tensor(step), "version": torch.tensor(batch.version)}
            if decode_device is not None and cache is None:
                tensors["patches"] = decode_patches(batch.records, decode_device)
            if pin_memory:
                tensors = {name: value if value.is_cuda else value.pin_memory() for name, value in tensors.items()}
            return ReplayTensors(tensors)

        return fetch


class PrefetchIterator(Iterator[TensorBatch]):
    """Batches in the order of their steps, the next ones already on their way.

    It belongs to the process that made it: its threads do not follow into a forked one.
    """

    def __init__(self, dataset: ReplayDataset, batches: Prefetched[int, TensorBatch], client: Connected) -> None:
        self._dataset = dataset
        self._batches = batches
        self._client = client
        self._is_open = True

    def __next__(self) -> TensorBatch:
        started = time.perf_counter()
        try:
            return next(self._batches)
        except BaseException:
            self.close()
            raise
        finally:
            self._dataset.wait_seconds += time.perf_counter() - started

    def close(self) -> None:
        """End the threads. A request in flight is waited for, its retries are not."""
        if self._is_open:
            self._is_open = False
            self._client.stop()
            self._batches.close()
            self._client.close()

    def __del__(self) -> None:
        self.close()


def _cache(
    num_bytes: int | None, device: torch.device | str | None, decode_device: torch.device | None
) -> PixelCache[Any] | None:
    where = decode_device if device is None else torch.device(device)
    if decode_device not in (None, where):
        raise ValueError(
            f"what is decoded on {decode_device} is kept there, and not on {where}: leave cache_device out"
        )
    if num_bytes is None:
        num_bytes = 0 if decode_device is not None and device is None else default_bytes()
    if whole("cache_bytes", num_bytes, 0) == 0:
        return None
    return shared_cache(num_bytes) if where is None else device_cache(num_bytes, where, decode_device is not None)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
