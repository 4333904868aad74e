"""The rows of replay batches, one after another, in pieces of any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from client._iterator import PrefetchIterator
from client.dataset import ReplayDataset
from client.tensors import TensorBatch, pad_rows

_OF_A_BATCH = ("step", "version")
"""What is no tensor of rows."""


@dataclass(frozen=True)
class Place:
    """Which row is next."""

    began: Mapping[str, Any]
    """The data set's state before the first batch."""
    row: int
    """Rows that were used: of the last batch, or of the first one to come."""
    last: TensorBatch | None = None
    """Step and version of the batch that was used last."""

    def state_of(self, replay: ReplayDataset) -> tuple[dict[str, Any], int]:
        """The data set's state, and how many rows of its next batch are to be passed over."""
        if self.last is None:
            return {**self.began}, self.row
        state = replay.state_dict(after=self.last)
        if self.row == replay.batch_size:
            return state, 0
        return {**state, "next_step": state["next_step"] - 1}, self.row


class ReplayedRows:
    """Takes rows from a place on. The service is asked when the first ones are wanted.

    Args:
        replay: its epochs follow one another.
    """

    def __init__(self, replay: ReplayDataset, place: Place) -> None:
        self._replay = replay
        self._batches: PrefetchIterator | None = None
        self._batch: TensorBatch | None = None
        self.place = place

    def take(self, count: int) -> TensorBatch:
        """The next rows, padded to the largest, with the ``step`` and the ``row`` that each had in its batch."""
        parts: list[TensorBatch] = []
        while count:
            batch = self._current()
            first = self.place.row
            last = min(first + count, self._replay.batch_size)
            part = {name: values[first:last] for name, values in batch.items() if name not in _OF_A_BATCH}
            part["row"] = torch.arange(first, last)
            part["step"] = batch["step"].expand(last - first)
            parts.append(part)
            self.place = replace(self.place, row=last, last={name: batch[name] for name in _OF_A_BATCH})
            count -= last - first
        if len(parts) == 1:
            return parts[0]
        rows = [
            {name: values[row] for name, values in part.items()} for part in parts for row in range(len(part["row"]))
        ]
        return pad_rows(rows)

    def close(self) -> None:
        """End the threads that fetch ahead."""
        if self._batches is not None:
            self._batches.close()

    def _current(self) -> TensorBatch:
        if self._batch is None:
            state, row = self.place.state_of(self._replay)
            self._replay.load_state_dict(state)
            self._batch, self.place = self._next(), replace(self.place, row=row)
        elif self.place.row == self._replay.batch_size:
            self._batch, self.place = self._next(), replace(self.place, row=0)
        return self._batch

    def _next(self) -> TensorBatch:
        # One epoch may be over, and what was loaded may be the end of one; the next has batches, if any has.
        for _ in range(3):
            if self._batches is None:
                self._batches = iter(self._replay)
            try:
                return next(self._batches)
            except StopIteration:
                self._batches = None
        raise ValueError("the ReplayDataset gives no batch: its num_steps is 0")
