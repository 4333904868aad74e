"""Where the iterations over a data set are, in one process or in several worker processes of a loader."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from client._params import whole

_ENDLESS = 2**32
"""Steps from one epoch to the next where an epoch has no end of its own."""
_MOST_EPOCHS = 2**30

_EPOCH, _FIRST_STEP, _LOADED_EPOCH, _MIN_VERSION, _SAVED_VERSION = range(5)
"""What processes share, by place."""


@dataclass(frozen=True)
class Place:
    """What comes next, in this process or worker."""

    epoch: int
    step: int
    version: int
    """Of the buffer when the batch before was drawn; 0 where nobody knows."""


class Position:
    """Counts epochs and steps. Copies in worker processes share what is next.

    Args:
        start_step: the first step of all.
        num_steps: steps of an epoch; None = without end.
    """

    def __init__(self, start_step: int, num_steps: int | None) -> None:
        self.start_step = start_step
        self.num_steps = num_steps
        self.shared = torch.zeros(5, dtype=torch.int64).share_memory_()
        self._latest: Place | None = None
        """After the batch that was given last in this process; None: what is next for all counts."""
        self._version = 0
        """Of that batch."""
        self._loaded: Place | None = None
        """In a worker: where the iteration to come begins."""
        self._iterations = 0
        """In a worker: how many there were."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": None, "_version": 0, "_iterations": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.shared.share_memory_()  # it is, in a worker; in a copy that was made otherwise it is another one

    # What is asked for

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`ReplayDataset.set_epoch`."""
        whole("epoch", epoch, 0, _MOST_EPOCHS)
        # The rest of an epoch that was loaded is what is asked for, by who says before each epoch which one it is.
        if int(self.shared[_LOADED_EPOCH]) != epoch + 1:
            self._ask_for(epoch, 0)

    def seek(self, step: int) -> None:
        """See :meth:`ReplayDataset.seek`."""
        whole("step", step, self.start_step)
        self._ask_for(self.epoch_of(step), step)
        self.shared[_SAVED_VERSION] = 0

    def load(self, place: Place) -> None:
        """Make the next iteration go on at a place, within its epoch. In a worker that is its own next step."""
        if get_worker_info() is None:
            self._ask_for(place.epoch, place.step)
            self.shared[_LOADED_EPOCH] = place.epoch + 1
        else:
            self._loaded = place
            # All workers do so: the iteration after the loaded one is that of the next epoch. The name is no other
            # iteration's: the loader goes on with a seed that its generator, seeded as before, may give once more.
            self.shared[_EPOCH] = (place.epoch + 1) << 32 | self._name(-1 - self._iterations)
        self.shared[_SAVED_VERSION] = max(int(self.shared[_SAVED_VERSION]), place.version)

    def _ask_for(self, epoch: int, first_step: int) -> None:
        whole("epoch", epoch, 0, _MOST_EPOCHS)
        self._latest = None
        self.shared[_LOADED_EPOCH] = 0
        self.shared[_FIRST_STEP] = first_step
        self.shared[_EPOCH] = epoch << 32

    # Versions

    @property
    def min_version(self) -> int:
        """No batch of before is wanted."""
        return int(self.shared[_MIN_VERSION])

    @min_version.setter
    def min_version(self, version: int) -> None:
        self.shared[_MIN_VERSION] = version

    @property
    def saved_version(self) -> int:
        """Of the state that was loaded; 0 where none was."""
        return int(self.shared[_SAVED_VERSION])

    # Where it is

    def epoch_of(self, step: int) -> int:
        """The epoch that a step is of."""
        return (step - self.start_step) // self._epoch_steps

    @property
    def _epoch_steps(self) -> int:
        return _ENDLESS if self.num_steps is None else max(1, self.num_steps)

    def next_place(self) -> Place:
        """What the process, or the worker, that asks gives next.

        Raises:
            RuntimeError: workers give it, and the process is none.
        """
        if get_worker_info() is None and self._next_epoch()[1]:
            raise RuntimeError(
                "the batches come from worker processes of a DataLoader, and this process does not see which of them "
                "were used: ask for state_dict(after=batch) with the last one that was, or let torchdata's "
                "StatefulDataLoader keep the state; set_epoch() before asking says that a new epoch is next"
            )
        if self._latest is not None:
            return self._latest
        if self._loaded is not None:
            return self._loaded
        return self._first_place(self._name(self._iterations))

    def _next_epoch(self) -> tuple[int, int]:
        """The epoch that is next, and who began the last one.

        One number, which is read and written whole.
        """
        number = int(self.shared[_EPOCH])
        return number >> 32, number & 0xFFFFFFFF

    def _first_place(self, name: int) -> Place:
        """Where an iteration of this name begins: in the next epoch, the same for all workers of a loader."""
        worker = get_worker_info()
        following, begun_by = self._next_epoch()
        epoch = following - 1 if name and name == begun_by else following
        begin = max(self.start_step + epoch * self._epoch_steps, int(self.shared[_FIRST_STEP]))
        shard = 0 if worker is None else worker.id
        return Place(epoch, begin + shard, max(self._version, self.saved_version))

    def _name(self, iteration: int) -> int:
        """What all workers of one iteration call it, and no others; 0 in a process that is no worker.

        They have the loader's seed for it in common; persistent ones keep that seed and begin again together.
        """
        worker = get_worker_info()
        return 0 if worker is None else zlib.crc32(f"{worker.seed - worker.id} {iteration}".encode()) or 1

    # Iterating

    def iterate(self) -> tuple[int, int]:
        """The name of another iteration, which takes an epoch when it begins, and how many workers share its steps."""
        self._latest = None
        worker = get_worker_info()
        if worker is None:
            return 0, 1
        self._iterations += 1
        return self._name(self._iterations), worker.num_workers

    def begin(self, name: int) -> tuple[Place, int]:
        """Where an iteration of this name begins, and the step at which it ends."""
        if self._loaded is not None:
            place, self._loaded = self._loaded, None
        else:
            place = self._first_place(name)
            self.shared[_EPOCH] = (place.epoch + 1) << 32 | name
            self.shared[_LOADED_EPOCH] = 0
        self._latest = place
        steps = _ENDLESS if self.num_steps is None else self.num_steps
        return place, self.start_step + place.epoch * self._epoch_steps + steps

    def moved(self, place: Place | None) -> None:
        """A batch was given, and this comes next in its iteration; None: the iteration is over."""
        self._latest = place
        if place is not None:
            self._version = place.version
