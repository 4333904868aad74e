"""The records that every contestant of the storage benchmark stores.

Two kinds, both valid records that the service checks in full:

* pictures: synthetic photographs, 40 % of their patches kept, WebP at a quality that gives the size asked
  for, and caption tokens of each record's own, so that no two bodies are equal. Each picture exists as a JPEG
  of about the same size too, for the folder of images that most training code reads.
* noise: pixels that Zstandard cannot compress, so the frame holds them as they are and other pixels can be
  written over them. A million of these take seconds to make.
"""

from __future__ import annotations

import bisect
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memory_format import RawZstd, Record, WebP, encode_batch, image_to_patches, make_record

NUM_CLASSES = 100
_PATCH_PX = 32
_KEPT = 0.4
_TOKENS = 24
_SPREAD = 0.4
"""Bodies are spread evenly over (1 - this) to (1 + this) of the mean: what a tensor store has to pad."""


@dataclass(frozen=True)
class Batch:
    """Records in the forms in which contestants take them; each form is made once, when it is asked for."""

    records: tuple[Record, ...]
    jpegs: tuple[bytes, ...] = ()
    """``(N,)`` the pictures as JPEG files, where the records are pictures."""
    max_patches: int = 0
    """Most kept patches of any record of the maker: what a store with rows of one length pads to."""
    max_tokens: int = 0
    """The same of tokens."""

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def bodies(self) -> list[bytes]:
        return [record.body for record in self.records]

    @cached_property
    def arrow(self) -> bytes:
        return encode_batch(self.records)

    @cached_property
    def patches(self) -> list[NDArray[np.uint8]]:
        """``(N,)`` the kept patches of each, ``(K, P, P, 3)``. Each distinct picture is decoded once."""
        decoded: dict[tuple[bytes, bytes], NDArray[np.uint8]] = {}
        for record in self.records:
            picture = (record.keep_mask_bytes, record.payload)
            if picture not in decoded:
                decoded[picture] = np.ascontiguousarray(record.patches())
        return [decoded[record.keep_mask_bytes, record.payload] for record in self.records]

    def pixel_bodies(self) -> list[bytes]:
        """``(N,)`` pixels and token ids of each, end to end: what the contestants that hold pixels store."""
        return [
            patches.tobytes() + record.token_ids.tobytes()
            for patches, record in zip(self.patches, self.records, strict=True)
        ]

    @property
    def charge(self) -> int:
        return sum(record.charge for record in self.records)


class Maker(Protocol):
    """A source of records: number ``i`` is the same in every batch, and no two are equal."""

    label: str
    max_body: int
    mean_body: int

    def batch(self, start: int, count: int) -> Batch: ...


def batches(maker: Maker, count: int, size: int) -> Iterator[Batch]:
    """``count`` records in batches of ``size``, made as they are read."""
    for start in range(0, count, size):
        yield maker.batch(start, min(size, count - start))


class Pictures:
    """Records of pictures with bodies of ``mean_bytes`` on average, 0.6 to 1.4 times that each.

    Args:
        num_pictures: different pictures; the records beyond repeat them with other tokens.
    """

    def __init__(self, mean_bytes: int, num_pictures: int = 48) -> None:
        self.label = _size_label(mean_bytes)
        side = max(2 * _PATCH_PX, int(np.sqrt(mean_bytes * 5.2)) // _PATCH_PX * _PATCH_PX)
        rng = np.random.default_rng(mean_bytes)
        sizes = np.linspace(1 - _SPREAD, 1 + _SPREAD, num_pictures) * mean_bytes
        made = [_picture(rng, side, int(size)) for size in rng.permutation(sizes)]
        self._templates = [record for record, _ in made]
        self._jpegs = [jpeg for _, jpeg in made]
        self._num_pictures = num_pictures
        self._max_patches = max(record.num_kept for record in self._templates)
        bodies = [record.body_bytes for record in self._templates]
        self.max_body = max(bodies)
        self.mean_body = sum(bodies) // len(bodies)

    def batch(self, start: int, count: int) -> Batch:
        tokens = _random_bytes(1, start, count, 2 * _TOKENS)
        places = range(start, start + count)
        records = tuple(
            replace(
                self._templates[i % self._num_pictures],
                class_id=i // self._num_pictures % NUM_CLASSES,
                rank=i,
                token_ids_bytes=ids.tobytes(),
            )
            for i, ids in zip(places, tokens, strict=True)
        )
        jpegs = tuple(self._jpegs[i % self._num_pictures] for i in places)
        return Batch(records, jpegs, max_patches=self._max_patches, max_tokens=_TOKENS)


class Noise:
    """Records of one patch of noise, all with bodies of the same ``max_body`` bytes."""

    def __init__(self, patch_px: int = 8) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (1, patch_px, patch_px, 3), dtype=np.uint8)
        keep = np.ones((1, 1), dtype=bool)
        self._template = make_record(class_id=0, patches=pixels, keep_mask=keep, codec=RawZstd())
        self._pixel_bytes = pixels.nbytes
        if not self._template.payload.endswith(pixels.tobytes()):
            raise AssertionError("Zstandard does not keep noise as it is; other pixels cannot be written over it")
        self._frame = self._template.payload[: -self._pixel_bytes]
        self.max_body = self.mean_body = self._template.body_bytes
        self.label = _size_label(self.max_body)

    def batch(self, start: int, count: int) -> Batch:
        size = self._pixel_bytes
        content = _random_bytes(2, start, count, size).tobytes()
        return Batch(
            tuple(
                replace(
                    self._template,
                    class_id=i % NUM_CLASSES,
                    rank=i,
                    payload=self._frame + content[place * size : (place + 1) * size],
                )
                for place, i in enumerate(range(start, start + count))
            )
        )


def with_ranks(batch: Batch, class_ids: NDArray[np.integer], ranks: NDArray[np.integer]) -> Batch:
    """The same records under other classes and ranks, ``(N,)`` each."""
    return Batch(
        tuple(
            replace(record, class_id=class_id, rank=rank)
            for record, class_id, rank in zip(batch.records, class_ids.tolist(), ranks.tolist(), strict=True)
        )
    )


def _picture(rng: np.random.Generator, side: int, num_bytes: int) -> tuple[Record, bytes]:
    image = _synthetic_photograph(rng, side)
    cells = (side // _PATCH_PX) ** 2
    kept = np.zeros(cells, dtype=bool)
    kept[rng.choice(cells, max(1, round(_KEPT * cells)), replace=False)] = True
    keep = kept.reshape(side // _PATCH_PX, side // _PATCH_PX)
    patches = image_to_patches(image, _PATCH_PX)[kept]

    def record_at(quality: int) -> Record:
        return make_record(
            class_id=0,
            patches=patches,
            keep_mask=keep,
            codec=WebP(quality=quality),
            token_ids=np.arange(_TOKENS),
            text_length=_TOKENS + 6,
            learner_id="benchmark",
        )

    record = record_at(_quality_for(lambda quality: record_at(quality).body_bytes, num_bytes))
    jpeg = _jpeg(image, _quality_for(lambda quality: len(_jpeg(image, quality)), num_bytes))
    return record, jpeg


def _quality_for(size_at: Callable[[int], int], num_bytes: int) -> int:
    """The highest quality of 1..100 that does not take more bytes."""
    return max(1, bisect.bisect_right(range(1, 101), num_bytes, key=size_at))


def _synthetic_photograph(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """``(side, side, 3)``: amplitudes fall with frequency as in photographs, and some grain."""
    fx, fy = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    falling = 1 / np.maximum(np.hypot(fx, fy), 1 / side)
    noise = np.fft.rfft2(rng.normal(size=(3, side, side))) * falling
    image = np.fft.irfft2(noise, s=(side, side)).transpose(1, 2, 0)
    image = 128 + 48 * image / image.std() + rng.normal(scale=12, size=image.shape)
    pixels: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return pixels


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _random_bytes(key: int, start: int, count: int, size: int) -> NDArray[np.uint8]:
    """``(count, size)``: rows ``start`` and on of an endless table, the same however it is cut.

    The first eight bytes of a row count, so that no chance makes two rows equal.
    """
    steps = -(-size // 32)  # of the generator's counter, 32 bytes each
    generator = np.random.Philox(key=key).advance(start * steps)
    rows = generator.random_raw(count * steps * 4).astype("<u8").view(np.uint8).reshape(count, steps * 32)
    rows[:, :8] = np.arange(start, start + count, dtype="<u8").view(np.uint8).reshape(count, 8)
    return rows[:, :size]


def _size_label(num_bytes: int) -> str:
    return f"{num_bytes / 1000:.0f} kB" if num_bytes >= 1000 else f"{num_bytes} B"
