"""Replay for the ``Trainer`` of transformers: samples that go on, and a callback that keeps their place."""

from __future__ import annotations

import base64
import io
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from client import Buffer
from client.dataset import ReplayDataset
from client.mixed import Mixed, Transform
from client.phase_report import phase_report
from client.pictures import FILL
from memory_format import Record

_FORMAT: Final = 1
_WINDOW: Final = 256
"""Batches whose places are known: loaders fetch ahead."""


class ReplaySamples(IterableDataset[dict[str, torch.Tensor]]):
    """New samples and replayed ones, one by one and without end: for a trainer that makes batches itself.

    Each is a dict of ``pixel_values``, ``labels``, ``mask`` and ``replayed``, as :class:`~client.mixed.Mixed` has them
    in batches. They come in the order of its batches: those of a batch of ``new``, and what is replayed beside them.

    They are drawn from a snapshot, so that a run can go on after others have pushed. The first iteration takes one, and
    the state has its name. It is for one process; workers belong to ``new``.

    Args:
        new: the loader of new samples, with a state, as torchdata's ``StatefulDataLoader``.
        buffer: where replayed samples are drawn from.
        batch_size: how many of them are fetched at once.
        ratio, schedule, transform, fill: as :class:`~client.mixed.Mixed` has them.
        draws: settings of :class:`~client.dataset.ReplayDataset`: ``seed``, ``strategy`` and others.
    """

    def __init__(
        self,
        new: Any,
        buffer: Buffer,
        *,
        batch_size: int = 32,
        ratio: float | None = None,
        schedule: Callable[[int], float] | Mapping[int, float] | None = None,
        transform: Transform | None = None,
        fill: Sequence[int] = FILL,
        **draws: Any,
    ) -> None:
        self.buffer = buffer
        self.snapshot: str | None = None
        self._new = new
        self._draws = {"batch_size": batch_size, **draws}
        self._mix: dict[str, Any] = {"ratio": ratio, "schedule": schedule, "transform": transform, "fill": fill}
        # What makes no sense is said now and not when training begins.
        self._make(None)
        self._mixed: Mixed | None = None
        self._given = 0
        """Samples, since the run began."""
        self._batches: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_WINDOW)
        """Of the last batches that samples were given of: how many samples came before, and the state before."""

    def _make(self, snapshot: str | None) -> Mixed:
        return Mixed(self._new, ReplayDataset(self.buffer, snapshot=snapshot, **self._draws), **self._mix)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if get_worker_info() is not None:
            raise RuntimeError("ReplaySamples is for one process: leave dataloader_num_workers at 0")
        mixed, skip = self._begun()
        idle = 0
        while True:
            before = self._given
            for batch in mixed:
                for row in range(skip, len(batch["labels"])):
                    self._given += 1
                    yield {name: values[row] for name, values in batch.items()}
                skip = 0
                self._batches.append((self._given, mixed.state_dict()))
            # After a state that was taken at the end of an epoch there is nothing left of it.
            idle = idle + 1 if self._given == before else 0
            if idle > 1:
                raise ValueError("the loader of new samples gives no batches: it has fewer samples than one, or none")

    def _begun(self) -> tuple[Mixed, int]:
        """The loader where samples go on, and how many of its next batch were given."""
        if self.snapshot is None:
            self.snapshot = f"trainer-{uuid.uuid4().hex[:12]}"
            self.buffer.take_snapshot(self.snapshot)
        if self._mixed is None:
            self._mixed = self._make(self.snapshot)
            self._batches.append((0, self._mixed.state_dict()))
            return self._mixed, 0
        before, state = self._batches[-1]
        self._mixed.load_state_dict(state)
        return self._mixed, self._given - before

    def state_dict(self, after: int | None = None) -> dict[str, Any]:
        """What comes next, and of which snapshot.

        Args:
            after: so many samples since the run began; None: all that were given, those that a loader has fetched ahead
                too.

        Raises:
            ValueError: so many were not given yet, or long ago.
        """
        if self._mixed is None:
            self._begun()
        after = self._given if after is None else after
        if not self._batches[0][0] <= after <= self._given:
            raise ValueError(f"places are known from {self._batches[0][0]} to {self._given} samples, not after {after}")
        while len(self._batches) > 1 and self._batches[1][0] <= after:
            self._batches.popleft()
        before, state = self._batches[0]
        return {"format": _FORMAT, "snapshot": self.snapshot, "given": after, "row": after - before, "mixed": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on where a state was taken.

        Raises:
            ValueError: the state is none, or of other draws.
            NotFoundError: its snapshot was deleted.
        """
        if not {"format", "snapshot", "given", "row", "mixed"}.issubset(state) or state["format"] != _FORMAT:
            raise ValueError(f"this is not what ReplaySamples.state_dict() gives: {state!r:.100}")
        self.buffer.snapshot(state["snapshot"])
        mixed = self._make(state["snapshot"])
        mixed.load_state_dict(state["mixed"])
        self._mixed, self.snapshot, self._given = mixed, state["snapshot"], state["given"]
        self._batches.clear()
        self._batches.append((self._given - state["row"], state["mixed"]))


class ReplayCallback(TrainerCallback, ExportableState):
    """Keeps the place in :class:`ReplaySamples` in the trainer's checkpoints, and stores exemplars when a phase ends.

    ``trainer_state.json`` then has the name of the snapshot, and some kB that say where each loader was.
    ``Trainer.train(resume_from_checkpoint=...)`` goes on from there.

    Args:
        samples: the trainer's ``train_dataset``.
        phase: its number, for what is said of the buffer.
        exemplars: makes the records that are pushed when training has ended; None: none are.
        report: is given a line on items and bytes when training begins and has ended; default the client's log.
    """

    def __init__(
        self,
        samples: ReplaySamples | None = None,
        *,
        phase: int = 0,
        exemplars: Callable[[], Iterable[Record]] | None = None,
        report: Callable[[str], object] | None = None,
    ) -> None:
        self.samples = samples
        self.phase = phase
        self.exemplars = exemplars
        self.report = report
        self._used = 0

    def state(self) -> dict[str, Any]:
        """For ``trainer_state.json``."""
        if self.samples is None or self.samples.snapshot is None:
            return {"args": {}, "attributes": {}}
        packed = io.BytesIO()
        torch.save(self.samples.state_dict(after=self._used), packed)
        data = base64.b64encode(packed.getvalue()).decode()
        return {"args": {}, "attributes": {"snapshot": self.samples.snapshot, "data": data}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on from a checkpoint, if there is one.

        Raises:
            ValueError: the trainer's settings, or the checkpoint's, would lose the place in the data.
            NotFoundError: the checkpoint's snapshot was deleted.
        """
        if self.samples is None:
            raise ValueError(
                "restore_callback_states_from_checkpoint makes other callbacks, which know no memory: leave it out, "
                "this one reads the checkpoint itself"
            )
        if not args.ignore_data_skip:
            raise ValueError(
                "the data go on by their own state, and the trainer would pass over as many again: give "
                "TrainingArguments(ignore_data_skip=True)"
            )
        if state.global_step:
            saved = _attributes(state.stateful_callbacks, type(self).__name__)
            if "data" not in saved:
                raise ValueError("the checkpoint was made without a ReplayCallback: it knows no place in the data")
            self.samples.load_state_dict(torch.load(io.BytesIO(base64.b64decode(saved["data"])), weights_only=True))
        self._count(args, state)
        phase_report(self.samples.buffer, self.phase, report=self.report)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count what was used: loaders fetch ahead."""
        self._count(args, state)

    def _count(self, args: TrainingArguments, state: TrainerState) -> None:
        self._used = state.global_step * args.gradient_accumulation_steps * args.train_batch_size

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Store the phase's exemplars."""
        if self.exemplars is not None and self.samples is not None and state.is_world_process_zero:
            pushed = self.samples.buffer.push(self.exemplars())
            phase_report(self.samples.buffer, self.phase, pushed, self.report)


def _attributes(stored: Any, name: str) -> Mapping[str, Any]:
    """A callback's own part of ``trainer_state.json``, of the first of its kind."""
    found = stored.get(name) if isinstance(stored, Mapping) else None
    first = found[0] if isinstance(found, list) and found else found
    return first.get("attributes", {}) if isinstance(first, Mapping) else {}
