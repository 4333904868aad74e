"""A loader with a state, for trainers that count epochs and batches themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any


class Epochs:
    """A loader whose state at the end of an epoch is the beginning of the next one.

    Trainers stop an epoch at its last batch, by its length. A loader's state is then that of an epoch of which nothing
    is left: with a loader that goes on from it, a trainer would have an epoch without a batch. Besides, the epoch is
    told to the sampler before it is asked for its order, also where a run goes on.

    Args:
        loader: has a length and a state, as torchdata's ``StatefulDataLoader`` has.

    Raises:
        TypeError: it has not.
    """

    def __init__(self, loader: Any) -> None:
        lacks = [name for name in ("__iter__", "__len__", "state_dict", "load_state_dict") if not hasattr(loader, name)]
        if lacks:
            raise TypeError(
                f"a run goes on from a checkpoint if its loader has a length and a state: a {type(loader).__name__} "
                f"has no {lacks[0]}: give torchdata's StatefulDataLoader, which takes the same arguments"
            )
        self.loader = loader
        self._begun = 0
        self._is_loaded = False

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self._is_loaded:
            self._is_loaded = False
            self._tell_epoch(self._begun - 1)
            batches = iter(self.loader)
            for first in batches:
                yield from chain([first], batches)
                return
        self._tell_epoch(self._begun)
        self._begun += 1
        yield from self.loader

    def state_dict(self) -> dict[str, Any]:
        """The loader's, and how many epochs were begun."""
        return {"epochs": self._begun, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration go on where a state was taken."""
        self._begun = state["epochs"]
        self.loader.load_state_dict(state["loader"])
        self._is_loaded = self._begun > 0

    def _tell_epoch(self, epoch: int) -> None:
        sampler: Any = getattr(self.loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
