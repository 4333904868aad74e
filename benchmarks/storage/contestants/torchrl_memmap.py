"""torchrl's memory map as a contestant, with encoded bodies and with pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.page_cache import forget_mapping
from benchmarks.common.records import Batch
from benchmarks.common.rounds import timed
from benchmarks.storage.contestants.peer import PIXELS_NOT_MANY, PIXELS_NOT_MEDIUM, Peer, Read


class TorchRL(Peer):
    """``TensorDictReplayBuffer`` over ``LazyMemmapStorage``: bodies as rows of a uint8 tensor, padded."""

    name = "torchrl LazyMemmapStorage"
    note = "not durable: nothing is synced; rows padded to the longest body; sample = one padded tensor"

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

        # Its import sets the level, and it announces every storage on stdout.
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        super().__init__(directory, capacity=capacity, max_body=max_body)
        self._storage = LazyMemmapStorage(capacity, scratch_dir=os.fspath(directory))
        self._buffer = TensorDictReplayBuffer(storage=self._storage)

    def push(self, batch: Batch) -> None:
        self._buffer.extend(self._rows(batch))

    def _rows(self, batch: Batch) -> Any:
        from tensordict import TensorDict

        rows = np.zeros((len(batch), self.max_body), dtype=np.uint8)
        for row, body in zip(rows, batch.bodies, strict=True):
            row[: len(body)] = np.frombuffer(body, dtype=np.uint8)
        columns = {
            "body": torch.from_numpy(rows),
            "length": torch.tensor([len(body) for body in batch.bodies]),
            "class_id": torch.tensor([record.class_id for record in batch.records]),
        }
        return TensorDict(columns, batch_size=[len(batch)])

    def sample(self, count: int) -> object:
        return self._buffer.sample(count)

    def contents_of(self, sampled: Any) -> list[bytes]:
        lengths = sampled["length"].tolist()
        return [row[:length].numpy().tobytes() for row, length in zip(sampled["body"], lengths, strict=True)]

    def reads(self) -> dict[str, Read]:
        # Torch gathers rows with all cores. That is faster where they are idle, and slower where they are not.
        def on_one_thread(count: int) -> float:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return timed(lambda: self.sample(count))
            finally:
                torch.set_num_threads(threads)

        return super().reads() | {
            f"{self.name}, 1 thread": on_one_thread,
            f"{self.name}, bytes": lambda count: timed(lambda: self.drawn_contents(count)),
        }

    def forget(self) -> None:
        for tensor in self._storage[:].values():
            forget_mapping(tensor.data_ptr(), tensor.numel() * tensor.element_size())
        super().forget()


class TorchRLPixels(TorchRL):
    """The same storage as it is made to be used: a row holds the exemplar's decoded patches and its tokens."""

    name = "torchrl LazyMemmapStorage, pixels"
    note = "not durable; rows of decoded patches and tokens, padded to the most of both; sample = ready tensors"
    not_medium = PIXELS_NOT_MEDIUM
    not_many = PIXELS_NOT_MANY

    def contents(self, batch: Batch) -> Sequence[bytes]:
        return batch.pixel_bodies()

    def time_push(self, batch: Batch) -> float:
        rows = self._rows(batch)
        return timed(lambda: self._buffer.extend(rows))

    def _rows(self, batch: Batch) -> Any:
        from tensordict import TensorDict

        shape = batch.patches[0].shape[1:]
        patches = np.zeros((len(batch), batch.max_patches, *shape), dtype=np.uint8)
        token_ids = np.zeros((len(batch), batch.max_tokens), dtype=np.int64)
        for row, (pixels, record) in enumerate(zip(batch.patches, batch.records, strict=True)):
            patches[row, : len(pixels)] = pixels
            ids = record.token_ids
            token_ids[row, : len(ids)] = ids
        columns = {
            "patches": torch.from_numpy(patches),
            "num_patches": torch.tensor([len(pixels) for pixels in batch.patches]),
            "token_ids": torch.from_numpy(token_ids),
            "num_tokens": torch.tensor([len(record.token_ids) for record in batch.records]),
            "class_id": torch.tensor([record.class_id for record in batch.records]),
        }
        return TensorDict(columns, batch_size=[len(batch)])

    def contents_of(self, sampled: Any) -> list[bytes]:
        return [
            patches[:num_patches].numpy().tobytes() + token_ids[:num_tokens].numpy().tobytes()
            for patches, num_patches, token_ids, num_tokens in zip(
                sampled["patches"],
                sampled["num_patches"].tolist(),
                sampled["token_ids"],
                sampled["num_tokens"].tolist(),
                strict=True,
            )
        ]

    def reads(self) -> dict[str, Read]:
        # Who stores pixels wants the tensors, not strings cut from them.
        return {name: read for name, read in super().reads().items() if not name.endswith(", bytes")}
