"""Replay for Lightning: a data module whose checkpoints name a snapshot, and hold no data."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader

from client import Buffer
from client.dataset import ReplayDataset
from client.phase_report import phase_report
from learner.adapters._epochs import Epochs
from memory_format import NotFoundError

_logger = logging.getLogger(__name__)

Join: TypeAlias = Callable[[Epochs, ReplayDataset], Any]
"""A loader of new samples and the replay -> what the trainer iterates over."""


class ReplayDataModule(LightningDataModule):
    """New samples, and what a buffer held when training began.

    A run draws from a snapshot, so that it can go on from a checkpoint after others have pushed. It takes one when it
    begins; the checkpoint has its name, and where in the run each loader was. A run that goes on draws from the same
    snapshot. Who needs no checkpoint of the run any more deletes it: ``buffer.delete_snapshot(module.snapshot)``.

    Batches are ``{"data": ..., "replay": ...}``, unless ``join`` says otherwise.

    Args:
        new: makes the loader of new samples. It has a length and a state, as torchdata's ``StatefulDataLoader``. Where
            several ranks train together, its sampler is theirs: Lightning does not change it.
        buffer: where replayed samples are drawn from.
        batch_size: of replayed batches.
        phase: its number, for what is said of the buffer.
        snapshot: the name of one to draw from; None: one is taken.
        join: ``lambda new, replay: Mixed(new, replay, ratio=0.5)``, say (:class:`client.mixed.Mixed`).
        report: is given a line on items and bytes when training begins; default the client's log.
        draws: settings of :class:`~client.dataset.ReplayDataset`: ``seed``, ``strategy`` and others. An epoch has as
            many steps as new batches.
    """

    def __init__(
        self,
        new: Callable[[], Any],
        buffer: Buffer,
        *,
        batch_size: int,
        phase: int = 0,
        snapshot: str | None = None,
        join: Join | None = None,
        report: Callable[[str], object] | None = None,
        **draws: Any,
    ) -> None:
        super().__init__()
        # What makes no sense is said now and not when training begins.
        ReplayDataset(buffer, batch_size, **{**draws, "cache_bytes": 0})
        self.buffer = buffer
        self.phase = phase
        self.snapshot = snapshot
        self._new = new
        self._join = join
        self._report = report
        self._draws = {"batch_size": batch_size, **draws}
        self._loaders: dict[str, Any] = {}
        self._saved: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Say what the buffer holds."""
        if stage == "fit" and (self.trainer is None or self.trainer.is_global_zero):
            phase_report(self.buffer, self.phase, report=self._report)

    def train_dataloader(self) -> Any:
        """Both loaders, over the snapshot of the checkpoint, or over one that is taken now.

        Raises:
            TypeError: the loader of new samples has no length or no state.
        """
        if self.snapshot is None:
            self.snapshot = self._take_snapshot()
        new = Epochs(self._new())
        # So that both end together, and begin together where a run goes on.
        replay = ReplayDataset(self.buffer, num_steps=len(new), snapshot=self.snapshot, **self._draws)
        if self._join is not None:
            self._loaders = {"joined": self._join(new, replay)}
        else:
            self._loaders = {"data": new, "replay": Epochs(replay)}
        for name, state in self._saved.items():
            self._loaders[name].load_state_dict(state)
        named = {name: _KeptHere(loader) for name, loader in self._loaders.items()}
        return named["joined"] if self._join is not None else CombinedLoader(named, mode="min_size")

    def _take_snapshot(self) -> str:
        """One for all ranks."""
        name = f"lightning-{self.phase}-{uuid.uuid4().hex[:12]}"
        if self.trainer is not None:
            name = self.trainer.strategy.broadcast(name)
        if self.trainer is None or self.trainer.is_global_zero:
            self.buffer.take_snapshot(name)
        if self.trainer is not None:
            self.trainer.strategy.barrier()
        _logger.info("draws from snapshot %s of buffer %s", name, self.buffer.name)
        return name

    def state_dict(self) -> dict[str, Any]:
        """Names of the buffer and of the snapshot, and where in the run each loader is."""
        loaders = {name: loader.state_dict() for name, loader in self._loaders.items()}
        return {"buffer": self.buffer.name, "snapshot": self.snapshot, "phase": self.phase, "loaders": loaders}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, over its snapshot.

        Raises:
            ValueError: the checkpoint is of another buffer or phase, or of another snapshot than was given.
            NotFoundError: the snapshot was deleted.
        """
        own = {"buffer": self.buffer.name, "phase": self.phase}
        if self.snapshot is not None:
            own["snapshot"] = self.snapshot
        for name, value in own.items():
            if state_dict.get(name) != value:
                raise ValueError(f"the checkpoint is of {name} {state_dict.get(name)!r:.80}, and this is {value!r:.80}")
        snapshot = state_dict["snapshot"]
        if snapshot is not None:
            try:
                self.buffer.snapshot(snapshot)
            except NotFoundError as error:
                raise NotFoundError(
                    f"the run drew from snapshot {snapshot!r} of buffer {self.buffer.name!r}, which is gone: it cannot "
                    "go on with the same exemplars",
                    code=error.code,
                ) from error
        self.snapshot = snapshot
        self._saved = state_dict["loaders"]


class _KeptHere:
    """A loader as Lightning sees it: it can go on, and its state is the data module's affair.

    Lightning 2.6 does not load states of loaders where a checkpoint was made at the end of an epoch.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
