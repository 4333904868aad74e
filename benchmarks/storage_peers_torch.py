"""Contestants of the storage benchmark from the torch world: torchrl's memory map, and a folder of JPEGs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.storage_peers import PIXELS_NOT_MANY, PIXELS_NOT_MEDIUM, Peer, Read
from benchmarks.storage_records import Batch
from benchmarks.storage_rounds import timed
from benchmarks.storage_system import forget_mapping

_LOADER_BATCHES = 3


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


class _Images(Dataset[Any]):
    def __init__(self, directory: Path, count: int, *, decode: bool) -> None:
        self._directory = os.fspath(directory)
        self._count = count
        self._decode = decode

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        path = path_of(self._directory, index)
        if self._decode:
            with Image.open(path) as image:
                return torch.from_numpy(np.array(image.convert("RGB")))
        with open(path, "rb") as file:
            return file.read()


class JpegFolder(Peer):
    """A file an image, read by a ``DataLoader``: what most continual-learning code does."""

    name = "JPEG folder, bytes"
    note = "whole images of the same size in bytes; every file synced at a push"
    not_many = "no JPEG is that small"

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        super().__init__(directory, capacity=capacity, max_body=max_body)
        self._loaders: dict[tuple[bool, int], tuple[int, DataLoader[Any]]] = {}

    def contents(self, batch: Batch) -> Sequence[bytes]:
        return batch.jpegs

    def push(self, batch: Batch) -> None:
        self._write(batch, durable=True)

    def fill(self, batch: Batch) -> None:
        self._write(batch, durable=False)

    def sample(self, count: int) -> object:
        return next(iter(self._loader(count, decode=False, workers=0)))

    def contents_of(self, sampled: object) -> list[bytes]:
        assert isinstance(sampled, list)
        return sampled

    def reads(self) -> dict[str, Read]:
        def loaded(decode: bool, workers: int) -> Read:
            def read(count: int) -> float:
                loader = self._loader(count, decode=decode, workers=workers)
                return timed(lambda: [None for _ in loader]) / len(loader)

            return read

        workers = min(2, os.cpu_count() or 1)
        return {
            self.name: loaded(False, 0),
            "JPEG folder, decoded": loaded(True, 0),
            f"JPEG folder, decoded, {workers} workers": loaded(True, workers),
        }

    def close(self) -> None:
        self._loaders.clear()  # ends their worker processes

    def _loader(self, count: int, *, decode: bool, workers: int) -> DataLoader[Any]:
        held = self._loaders.get((decode, workers))
        batches = _LOADER_BATCHES if workers else 1
        if held is None or held[0] != self.count:
            images = _Images(self.directory, self.count, decode=decode)
            loader: DataLoader[Any] = DataLoader(
                images,
                batch_size=count,
                sampler=RandomSampler(images, replacement=True, num_samples=count * batches),
                num_workers=workers,
                persistent_workers=workers > 0,
                multiprocessing_context="forkserver" if workers else None,
                collate_fn=torch.stack if decode else list,
            )
            held = (self.count, loader)
            self._loaders[decode, workers] = held
        return held[1]

    def _write(self, batch: Batch, *, durable: bool) -> None:
        folders = set()
        for number, content in enumerate(batch.jpegs, self.count):
            path = path_of(os.fspath(self.directory), number)
            folder = os.path.dirname(path)
            if folder not in folders:
                os.makedirs(folder, exist_ok=True)
                folders.add(folder)
            with open(path, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        for folder in folders if durable else ():
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        self.count += len(batch)


def path_of(directory: str, number: int) -> str:
    """The file of an image, a thousand to a folder."""
    return f"{directory}/{number // 1000:05d}/{number:08d}.jpg"
