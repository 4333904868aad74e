"""Replay batches as a torch data set that fetches ahead, so that training does not wait for the memory.

This and what it is made of are the modules here that import torch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from client import _state
from client._iterator import PrefetchIterator
from client._params import Fields, Many, conditions, stream_label, whole
from client._position import Place, Position
from client._session import Connected
from client._world import check_rank, is_distributed, world_of
from client.buffer import Buffer
from client.cache import PixelCache, default_bytes, default_cache, shared_cache
from client.device_cache import device_cache
from client.device_jpeg import decode_patches, require_torchvision
from client.prefetch import Prefetched
from client.tensors import ReplayTensors, TensorBatch, to_tensors
from memory_format import ConflictError
from memory_format.api.terms import Strategy

_MOST_AHEAD = 1024
_MOST_STEPS = 2**32
_SECONDS_ASKED_AHEAD = 0.01
"""Where a batch takes longer, as pixels are decoded, it takes no longer by a question before. And the service keeps the
files of the next one for so long."""


@dataclass(eq=False, repr=False)
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
    no batch comes again before :meth:`set_epoch` asks for it. An iteration takes its epoch, and fetches, from its first
    batch on.

    In distributed training the ranks share out one draw: rank r of R has part r of the ``R * batch_size`` records that
    ``sample(R * batch_size, step=s)`` draws. So any number of ranks replays the same records, at the same
    ``R * batch_size``. They agree where the buffer does not change meanwhile: see ``version`` and ``snapshot``.

    An error on the way is raised where the batch would have been. Leaving a loop early, ``close()`` on the
    iterator or its garbage collection ends the threads.

    Args:
        buffer: where to draw from. Each iterator (and worker process) opens connections of its own.
        batch_size: B, records a batch, on each rank.
        seed, stream: name the draws: one seed a run, and a label of its own for each of several data sets that are
            to draw independently.
        start_step: the first step of all, to go on where an earlier run stopped.
        num_steps: steps of an epoch, on each rank; None = without end.
        rank, world_size: which of how many processes this one is; None = as ``torch.distributed`` says where it is
            initialised when an iteration begins, else the only one.
        strategy, replace, class_id, phase, learner_id, not_learner_id, fields, repair_text: as in
            :meth:`client.buffer.Buffer.sample`.
        version: draw at this version of the buffer alone. Once it has changed, a batch is ``ConflictError``
            (``stale_version``) and never another one.
        snapshot: draw from what the buffer held at this snapshot, whatever becomes of it.
        prefetch: most batches held or on their way while the consumer is busy.
        threads: batches fetched and decoded at the same time.
        decode_threads: as in :meth:`client.batch.ReplayBatch.from_records`.
        cache_bytes: memory for decoded exemplars (:class:`client.cache.ExemplarCache`), which are fetched and decoded
            once then. Data sets of one process with the same number share it, and so do its workers. Memory is taken
            as it fills. 0 = none; None = 256 MiB, or a sixteenth of the memory of the machine, or of the container,
            where that is less, and none with ``decode_device`` or where the system has no room for it, which is logged.
        cache_device: keep them on this device, where ``patches`` then are (:mod:`client.device_cache`); default
            ``decode_device``. The memory is taken at once, and is this process's own.
        pin_memory: put tensors into page-locked memory, as torch's ``DataLoader`` does with the same argument: copies
            to a GPU then go on beside its work (``tensor.to(device, non_blocking=True)``). Needs a GPU.
        decode_device: decode JPEG payloads onto this device, where ``patches`` then are
            (:mod:`client.device_jpeg`); other codecs are refused.

    Raises:
        ValueError: a number above that makes no sense, or there is no GPU to lock pages for.
        OSError: there is no room for a cache of ``cache_bytes``.
        MissingLibraryError: ``decode_device`` without torchvision.
    """

    buffer: Buffer
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    stream: str = ""
    start_step: int = 0
    num_steps: int | None = None
    rank: int | None = None
    world_size: int | None = None
    strategy: Strategy = "uniform"
    replace: bool = True
    class_id: Many[int] = None
    phase: Many[int] = None
    learner_id: Many[str] = None
    not_learner_id: Many[str] = None
    fields: Fields = None
    repair_text: float = 0.0
    version: int | None = None
    snapshot: str | None = None
    prefetch: int = 4
    threads: int = 1
    decode_threads: int | None = None
    cache_bytes: InitVar[int | None] = None
    cache_device: InitVar[torch.device | str | None] = None
    pin_memory: bool = False
    decode_device: torch.device | str | None = None

    wait_seconds: float = field(default=0.0, init=False)
    """Seconds that consumers in this process waited for batches, over all iterators. Reset it at will."""

    def __post_init__(self, cache_bytes: int | None, cache_device: torch.device | str | None) -> None:
        if not isinstance(self.buffer, Buffer):
            raise ValueError(f"buffer must be one of a MemoryClient, got {self.buffer!r:.100}")
        for name, lowest, highest in (
            ("batch_size", 1, 2**31),
            ("prefetch", 1, _MOST_AHEAD),
            ("threads", 1, _MOST_AHEAD),
            ("seed", 0, 2**63 - 1),
            ("start_step", 0, 2**62),
            ("num_steps", 0, _MOST_STEPS),
            ("version", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is not None or name not in ("num_steps", "version"):
                whole(name, value, lowest, highest)
        stream_label(self.stream)
        check_rank(self.rank, self.world_size)
        if self.pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory needs a GPU, and torch finds none here")
        if self.decode_device is not None:
            self.decode_device = torch.device(self.decode_device)
            require_torchvision()
        self.cache = _cache(cache_bytes, cache_device, self.decode_device)
        self._position = Position(self.start_step, self.num_steps)

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
        return PrefetchIterator(self._begin, self._position, self._waited)

    def _begin(self, steps: range) -> tuple[Connected, Prefetched[int, TensorBatch]]:
        waiting = deque[int]()
        # Several threads overlap by themselves, and one would ask for what another begins.
        following = waiting if self.threads == 1 else ()
        fetch = self._fetcher(Buffer(client := self.buffer.client.clone(), self.buffer.name), following)
        return client, Prefetched(
            fetch,
            steps,
            ahead=self.prefetch,
            threads=self.threads,
            is_stale=self._is_old,
            waiting=waiting,
            cut=client.stop,
            name="replay-prefetch",
        )

    def _waited(self, seconds: float) -> None:
        self.wait_seconds += seconds

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if is_distributed():
            # A spawned worker is not in the group.
            state["rank"], state["world_size"] = world_of(self.rank, self.world_size)
        return state

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration, of workers too, that of this epoch, from its first step on.

        After :meth:`load_state_dict`, the epoch that was loaded goes on where it was.
        """
        self._position.set_epoch(epoch)

    def seek(self, step: int) -> None:
        """Make the next iteration begin at this step, within the epoch that the step is of; epochs follow as ever.

        To go on after ``batch``, seek ``int(batch["step"]) + 1``: nothing is drawn again to get there.
        """
        self._position.seek(step)

    def state_dict(self, after: TensorBatch | None = None) -> dict[str, Any]:
        """What comes next, as a few plain values: after the batch that was given last, not after those fetched ahead.

        The same on every rank. torchdata's ``StatefulDataLoader`` asks for it in its workers. With the workers of
        another loader, say ``after``: only who uses the batches knows which was the last.

        Args:
            after: a batch, whatever loader gave it: what comes after that one.

        Raises:
            RuntimeError: workers of a loader have the batches, and ``after`` is not given.
            ValueError: ``after`` is no batch.
        """
        if after is None:
            place = self._position.next_place()
            return _state.of(place.epoch, place.step, place.version, self._settings(get_worker_info()))
        step, version = _state.read_batch(after)
        return _state.of(self._position.epoch_of(step), step + 1, version, self._settings(None))

    def _settings(self, worker: Any) -> dict[str, Any]:
        """What a state says of the data set that it is of."""
        where = conditions(self.class_id, self.phase, self.learner_id, self.not_learner_id, self.fields)
        return {
            "buffer": self.buffer.name,
            "worker": None if worker is None else worker.id,
            "workers": None if worker is None else worker.num_workers,
            "batch_size": int(self.batch_size) * world_of(self.rank, self.world_size)[1],
            "seed": int(self.seed),
            "stream": self.stream,
            "strategy": self.strategy,
            "replace": bool(self.replace),
            "repair_text": float(self.repair_text),
            "snapshot": self.snapshot,
            "filters": _state.digest({name: sorted(set(values)) for name, values in where.items()}),
            "start_step": int(self.start_step),
            "num_steps": None if self.num_steps is None else int(self.num_steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration go on where a state was taken, within its epoch; nothing is drawn again for that.

        Ranks may be another number than then, if they have as many records in all. ``num_steps`` may be another one.

        Raises:
            ValueError: the state is none, of a newer format, of another buffer, of other draws, or of another number
                of workers.
        """
        _state.check(state, self._settings(get_worker_info()))
        epoch, step = state["epoch"], whole("next_step", state["next_step"], self.start_step)
        if state["start_step"] != self.start_step or state["num_steps"] != self.num_steps:
            # Its epochs had other bounds.
            epoch = self._position.epoch_of(step)
        self._position.load(Place(epoch, step, state["version"]))

    def set_min_version(self, version: int) -> None:
        """From now on, give no batch that was drawn before the buffer was at this version.

        Those fetched ahead are drawn again, of the same steps: after ``dataset.set_min_version(buffer.delete(...)
        .version)`` no batch that an iterator in this process gives holds what was deleted. Worker processes heed it
        too, but what they had already handed to their ``DataLoader`` must go through :meth:`renew`.

        Raises:
            ValueError: the data set reads a snapshot or one version, which does not change.
        """
        if self.snapshot is not None or self.version is not None:
            what = f"version {self.version}" if self.snapshot is None else f"snapshot {self.snapshot!r}"
            raise ValueError(f"{what} stays as it is: no later one can be asked for")
        self._position.min_version = whole("version", version, 0)

    def renew(self, batch: TensorBatch) -> TensorBatch:
        """The batch, or the same step drawn again where it is older than :meth:`set_min_version` allows.

        For a loader with workers: ``for batch in map(dataset.renew, loader)``.
        """
        return self._fetcher(self.buffer)(int(batch["step"])) if self._is_old(batch) else batch

    def _is_old(self, batch: TensorBatch) -> bool:
        return int(batch["version"]) < self._position.min_version

    def _fetcher(self, buffer: Buffer, waiting: Sequence[int] = ()) -> Callable[[int], TensorBatch]:
        """What a thread runs. It holds no reference to the iterator, which could then never be collected.

        Args:
            waiting: the steps that are fetched next, in this thread; none while the consumer has batches enough.
        """
        rank, world_size = world_of(self.rank, self.world_size)
        sample = partial(
            buffer.sample,
            self.batch_size * world_size,
            seed=self.seed,
            stream=self.stream,
            part=rank,
            parts=world_size,
            strategy=self.strategy,
            replace=self.replace,
            class_id=self.class_id,
            phase=self.phase,
            learner_id=self.learner_id,
            not_learner_id=self.not_learner_id,
            fields=self.fields,
            repair_text=self.repair_text,
            version=self.version,
            snapshot=self.snapshot,
            decode_threads=self.decode_threads,
            pixels=self.decode_device is None or self.cache is not None,
            cache=self.cache,
        )
        is_fixed = self.snapshot is not None or self.version is not None
        seconds = math.inf

        def fetch(step: int) -> TensorBatch:
            nonlocal seconds
            min_version, saved_version = self._position.min_version, self._position.saved_version
            began = time.perf_counter()
            following = waiting[0] if waiting and seconds < _SECONDS_ASKED_AHEAD else None
            batch = sample(step=step, next_step=following)
            seconds = time.perf_counter() - began
            if batch.version < min_version:
                # It was asked for before that was.
                batch = sample(step=step)
            if batch.version < min_version:
                raise ConflictError(
                    f"the buffer is at version {batch.version}, batches of {min_version} or later are asked for",
                    code="stale_version",
                )
            if batch.version < saved_version or (is_fixed and batch.version != saved_version > 0):
                raise ConflictError(
                    f"the state that was loaded is of version {saved_version}, and {self.snapshot or buffer.name!r} is "
                    f"at {batch.version}: it is another one, or an older copy; seek(step) goes on with it all the same",
                    code="stale_version",
                )
            tensors = to_tensors(batch)
            tensors |= {"step": torch.tensor(step), "version": torch.tensor(batch.version)}
            if self.decode_device is not None and self.cache is None:
                tensors["patches"] = decode_patches(batch.records, torch.device(self.decode_device))
            if self.pin_memory:
                tensors = {name: value if value.is_cuda else value.pin_memory() for name, value in tensors.items()}
            return ReplayTensors(tensors)

        return fetch


def _cache(
    num_bytes: int | None, device: torch.device | str | None, decode_device: torch.device | str | None
) -> PixelCache[Any] | None:
    where = decode_device if device is None else device
    where = None if where is None else torch.device(where)
    if decode_device not in (None, where):
        raise ValueError(
            f"what is decoded on {decode_device} is kept there, and not on {where}: leave cache_device out"
        )
    if num_bytes is None and where is None:
        return default_cache()
    if num_bytes is None:
        num_bytes = 0 if device is None else default_bytes()
    if whole("cache_bytes", num_bytes, 0) == 0:
        return None
    return shared_cache(num_bytes) if where is None else device_cache(num_bytes, where, decode_device is not None)
