"""Decoded exemplars on a torch device: batches are gathered there, and never pass through the memory of the CPU."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.batch import Fill, ReplayBatch
from client.cache import PixelCache, checked_bytes
from client.device_jpeg import decode_patches
from client.unpack import UnpackedBatch
from memory_format import Batch
from memory_format.wire import split_batch

_ZEROS: Final = 255 * 255 * 3
"""Bytes at the beginning that stay zero: padding of any patch size is gathered from there."""


class Place(NamedTuple):
    """Where an exemplar's pixels are."""

    key: tuple[int, int]
    fingerprint: int
    position: int
    """Bytes from the beginning of the log, as if it never went round."""
    pixel_bytes: int
    """0 = its front alone is kept."""
    front: bytes


class DeviceCache(PixelCache[Tensor]):
    """As :class:`client.cache.ExemplarCache`, in memory of a device, which one process has for itself.

    The memory is taken at once. Threads share it, on one stream: what they ask the device to do is done in the order
    in which it was asked for.

    Args:
        num_bytes: the most that pixels take on the device.
        device: where.
        decodes_there: JPEG payloads are decoded on the device (:mod:`client.device_jpeg`), and others refused.

    Raises:
        ValueError: so many bytes make no sense.
    """

    def __init__(self, num_bytes: int, device: torch.device, *, decodes_there: bool = False) -> None:
        super().__init__(checked_bytes(num_bytes), num_bytes - _ZEROS)
        self.device = device
        self.decodes_there = decodes_there
        self._log = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._end = 0
        self._places: deque[Place] = deque()
        self._known: dict[tuple[int, int], Place] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return device_cache, (self.num_bytes, self.device, self.decodes_there)

    def find(self, scope: int, fingerprints: Mapping[int, int]) -> dict[int, tuple[Any, bytes]]:
        with self._lock:
            places = {id_: self._known.get((scope, id_)) for id_ in fingerprints}
        return {
            id_: (place, place.front)
            for id_, place in places.items()
            if place is not None and place.fingerprint == fingerprints[id_]
        }

    def batch(self, fronts: Batch, fill: Fill, version: int) -> ReplayBatch:
        batch = ReplayBatch.from_fronts(fronts, None, version=version)
        patches = torch.empty(batch.patches.shape, dtype=torch.uint8, device=self.device)
        fill(batch.patch_valid, patches)
        return replace(batch, device_patches=patches)

    def uncached(self, draw: Callable[[bool], ReplayBatch]) -> ReplayBatch:
        batch = draw(not self.decodes_there)
        if self.decodes_there:
            return replace(batch, device_patches=decode_patches(batch.records, self.device))
        return replace(batch, device_patches=torch.from_numpy(batch.patches).to(self.device))

    def gather(self, entries: Mapping[int, Place], patch_valid: NDArray[np.bool_], patches: Tensor) -> list[int]:
        rows = patches.view(*patches.shape[:2], -1)
        patch_bytes = rows.shape[2]
        there = len(self._log) // patch_bytes
        # Of all patches that fit between the beginning and the end, which one; 0 = zeros.
        which = np.zeros(patch_valid.shape, dtype=np.int64)
        with self._lock:
            lost = [row for row, place in entries.items() if self._known.get(place.key) is not place]
            for row in entries.keys() - lost:
                count = entries[row].pixel_bytes // patch_bytes
                which[row, :count] = self._start(entries[row].position, patch_bytes) // patch_bytes + np.arange(count)
            torch.index_select(
                self._log[: there * patch_bytes].view(there, patch_bytes),
                0,
                torch.from_numpy(which.reshape(-1)).to(self.device),
                out=rows.view(-1, patch_bytes),
            )
        return lost

    def decode(
        self, unpacked: UnpackedBatch, wanted: Sequence[int], threads: int | None, take: Callable[[int, Any], object]
    ) -> None:
        if self.decodes_there:
            records = split_batch(unpacked.batch)
            decoded = decode_patches([records[place] for place in wanted], self.device) if wanted else ()
            for place, patches in zip(wanted, decoded, strict=True):
                take(place, patches[: records[place].num_kept])
            return

        def upload(place: int, pixels: NDArray[np.uint8]) -> None:
            take(place, torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device))

        super().decode(unpacked, wanted, threads, upload)

    def put(self, scope: int, exemplar_id: int, fingerprint: int, front: bytes, pixels: Tensor | None) -> None:
        key = scope, exemplar_id
        pixel_bytes = 0 if pixels is None else pixels.numel()
        patch_bytes = 1 if pixels is None else pixels[0].numel()
        with self._lock:
            known = self._known.get(key)
            if known is not None and known.fingerprint == fingerprint and known.pixel_bytes >= pixel_bytes:
                return
            position = self._end
            start = self._start(position, patch_bytes)
            if start + pixel_bytes > len(self._log):
                position += self.log_bytes - position % self.log_bytes
                start = self._start(position, patch_bytes)
            if start + pixel_bytes > len(self._log):
                return
            # The place itself says only where a search for the next multiple of a patch's size begins.
            self._end = position + start - self._at(position) + pixel_bytes
            while self._places and self._places[0].position < self._end - self.log_bytes:
                old = self._places.popleft()
                if self._known.get(old.key) is old:
                    del self._known[old.key]
            if pixels is not None:
                self._log[start : start + pixel_bytes] = pixels.reshape(-1)
            place = Place(key, fingerprint, position, pixel_bytes, front)
            self._places.append(place)
            self._known[key] = place

    def _at(self, position: int) -> int:
        return _ZEROS + position % self.log_bytes

    def _start(self, position: int, patch_bytes: int) -> int:
        return -(-self._at(position) // patch_bytes) * patch_bytes


@lru_cache(maxsize=1)
def device_cache(num_bytes: int, device: torch.device, decodes_there: bool) -> DeviceCache:
    """The cache of this process on that device, made when it is first asked for, and kept until another one is."""
    return DeviceCache(num_bytes, device, decodes_there=decodes_there)
