"""A folder of JPEGs, read by torch's loader, as a contestant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.common.records import Batch
from benchmarks.common.rounds import timed
from benchmarks.storage.contestants.peer import Peer, Read
from memory_format.machine import processors

_LOADER_BATCHES = 3


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

        workers = min(2, processors())
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
