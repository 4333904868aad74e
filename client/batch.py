"""A replay batch: records decoded into padded numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from client._params import whole
from client.parts import BatchParts, batch_parts
from client.unpack import UnpackedBatch, unpack_batch
from memory_format import Batch, Dropped, FormatError, Layout, Record
from memory_format.body import extras_of
from memory_format.codecs import codec_by_number
from memory_format.extras import Extras, StoredArray, decode_extras
from memory_format.header import FLAG_EXTRAS, FLAG_PARTS, layout_of
from memory_format.in_place import to_image
from memory_format.machine import processors
from memory_format.parts import Picture, Text, further_of, in_order
from memory_format.record import headers_of
from memory_format.user_fields import FieldValue
from memory_format.wire import record_list, split_batch

IntArray = NDArray[np.int64]
Fill: TypeAlias = Callable[[NDArray[np.bool_], Any], object]
"""Given ``patch_valid`` of a batch, writes all of its patches, padding too."""

# Below this size of a coded image a record decodes in 0.1 ms or less, most of it under the interpreter's lock, and
# threads cost more than they bring. 256 records on 2 cores, one thread and two, 27 % kept: of 112x112 px (3,328 coded)
# WebP 11.6 and 12.2 ms, JPEG 7.7 and 9.0 ms; of 384x384 px (39,936 coded) WebP 65 and 43 ms, AVIF 98 and 59 ms,
# JPEG 25 and 29 ms.
_THREADS_FROM_PIXELS = 128 * 128
_MOST_THREADS = 8
_MOST_ASKED_FOR = 1024
_FRESH_BYTES = 33 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class ReplayBatch:
    """B records side by side. Patches and tokens are padded at the end; ``*_valid`` says what is content.

    K = most kept patches of a record in the batch, T = most kept tokens, P = ``patch_px``. Padding is zero.
    """

    exemplar_id: IntArray
    """``(B,)``."""
    class_id: IntArray
    """``(B,)``."""
    phase: IntArray
    """``(B,)``."""
    score: NDArray[np.float32]
    """``(B,)``."""
    rank: IntArray
    """``(B,)``."""
    grid: IntArray
    """``(B, 2)``: rows and columns of each record's own grid."""
    patch_px: int
    """P, one for the batch."""
    patches: NDArray[np.uint8]
    """``(B, K, P, P, 3)`` RGB. Of a record of several pictures one's behind the other's: see :attr:`in_parts`."""
    patch_positions: IntArray
    """``(B, K)``: place of each patch, row-major in its record's own grid."""
    patch_valid: NDArray[np.bool_]
    """``(B, K)``."""
    token_ids: IntArray
    """``(B, T)``."""
    token_positions: IntArray
    """``(B, T)``: place of each token in its record's original text."""
    token_valid: NDArray[np.bool_]
    """``(B, T)``."""
    text_length: IntArray
    """``(B,)``: tokens of the original text."""
    held: Batch = field(repr=False)
    """What it was made of; see :attr:`records`."""
    version: int = 0
    """Of the buffer, or of the snapshot, that it was drawn from; 0 where nobody said."""
    has_pixels: bool = True
    """False where the patches were left undecoded, and are all zero."""
    has_payloads: bool = True
    """False where it came from a cache, which keeps pixels in place of records."""
    device_patches: Any = None
    """The patches as a tensor, where a cache has them on a device (:mod:`client.device_cache`); ``patches`` are zero
    then."""

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The records themselves, for their learner ids, user JSON and arrays. They are made when first asked for.

        Raises:
            ValueError: the batch came from a cache.
        """
        if not self.has_payloads:
            raise ValueError("a batch from a cache has pixels and no records: draw it without cache=")
        return tuple(split_batch(self.held))

    def arrays(self) -> list[dict[str, StoredArray]]:
        """The user's own arrays of each record, by name."""
        return [dict(extras.arrays) for extras in self._extras]

    @property
    def revision(self) -> IntArray:
        """``(B,)``: how often arrays of each were replaced since it was pushed."""
        return np.array([extras.revision.number if extras.revision else 0 for extras in self._extras], np.int64)

    @property
    def has_parts(self) -> bool:
        """Whether a record is of several pictures and texts. Its ``patches`` are then those of all its pictures."""
        return bool((self.held.headers["flags"] & FLAG_PARTS).any())

    @cached_property
    def in_parts(self) -> BatchParts:
        """Which picture each patch is of, and which text each token."""
        heads = [extras.parts or (None,) for extras in self._extras]
        return batch_parts(heads, self.grid, self.patch_valid, self.token_positions, self.token_valid)

    def parts(self) -> list[tuple[Picture | Text, ...]]:
        """Pictures and texts of each record in the order in which a model reads them, as
        :meth:`memory_format.Record.parts` gives them.

        Raises:
            ValueError: the batch was made with ``pixels=False``.
        """
        found = []
        for row, extras in enumerate(self._extras):
            flags = [self.held.headers["flags"][row], *(one.layout_flags for one in further_of(extras.parts))]
            pictures = [self._picture(row, place, layout_of(int(of_it))) for place, of_it in enumerate(flags)]
            said = self.token_valid[row]
            text = (self.token_ids[row, said], self.token_positions[row, said], int(self.text_length[row]))
            found.append(in_order(extras.parts or (None,), pictures, *text))
        return found

    def _picture(self, row: int, place: int, layout: Layout) -> Picture:
        if not self.has_pixels:
            raise ValueError("this batch has no pixels: draw it without pixels=False, or decode its records")
        valid = self.patch_valid[row] & (self.in_parts.patch_picture[row] == place)
        keep_mask = np.zeros(self.in_parts.picture_grid[row, place].tolist(), dtype=bool)
        keep_mask.flat[self.patch_positions[row, valid]] = True
        return Picture(self.patches[row, valid], keep_mask, layout)

    def fields(self) -> list[dict[str, FieldValue]]:
        """The user's fields of each record."""
        return [dict(extras.fields) for extras in self._extras]

    @cached_property
    def _extras(self) -> list[Extras]:
        if not (self.held.headers["flags"] & FLAG_EXTRAS).any():
            return [Extras()] * len(self)
        rows = zip(self.held.headers, self.held.bodies, strict=True)
        return [decode_extras(extras_of(header, body)) for header, body in rows]

    def __getstate__(self) -> dict[str, Any]:
        # As it came it is a view of an answer's memory, which cannot be pickled.
        bodies = cast("list[memoryview]", [bytes(body) for body in self.held.bodies])
        state = {**self.__dict__, "held": replace(self.held, bodies=bodies)}
        for of_bodies in ("records", "_extras"):
            state.pop(of_bodies, None)
        return state

    def __len__(self) -> int:
        return len(self.exemplar_id)

    def images(self, dropped: Dropped = "grey") -> list[NDArray[np.uint8]]:
        """The B pictures, of several the first: kept patches in place and the dropped ones flat.

        ``(h*P, w*P, 3)`` uint8 RGB each, with ``transparent`` ``(h*P, w*P, 4)``. Each has the size of its own grid.

        Raises:
            ValueError: the batch was made with ``pixels=False``.
            FormatError: ``dropped`` is no such word, or a picture has more than 16 million pixels.
        """
        if not self.has_pixels:
            raise ValueError("this batch has no pixels: draw it without pixels=False, or decode its records")
        return [
            to_image(patches[valid], places[valid], (h, w), dropped)
            for (h, w), patches, places, valid in zip(
                self.grid.tolist(), self.patches, self.patch_positions, self._of_first_pictures(), strict=True
            )
        ]

    def _of_first_pictures(self) -> NDArray[np.bool_]:
        return self.patch_valid & (self.in_parts.patch_picture == 0) if self.has_parts else self.patch_valid

    @classmethod
    def from_records(
        cls,
        records: Iterable[Record],
        *,
        decode_threads: int | None = None,
        pixels: bool = True,
        version: int = 0,
    ) -> ReplayBatch:
        """Decode records into a batch, in their order.

        Args:
            decode_threads: default: one for each core where the images are large enough to gain, else 1.
            pixels: decode the patches; else they are all zero, for who decodes ``records`` elsewhere.
            version: as below.

        Raises:
            ValueError: there are no records.
            MissingLibraryError: a record's codec needs a library that is not installed here. Said before anything is
                decoded.
            FormatError: the records have different patch sizes, or a payload is damaged.
        """
        rows = tuple(record_list(records))
        bodies = [memoryview(record.body) for record in rows]
        batch = Batch(headers_of(rows, [0] * len(rows)), [record.learner_id for record in rows], bodies)
        return cls.from_batch(batch, decode_threads=decode_threads, pixels=pixels, version=version)

    @classmethod
    def from_batch(
        cls, batch: Batch, *, decode_threads: int | None = None, pixels: bool = True, version: int = 0
    ) -> ReplayBatch:
        """Decode a batch that :func:`memory_format.check_batch` found good, as :meth:`from_records` does its records.

        No records are made on the way; :attr:`records` makes them when asked for.
        """
        if decode_threads is not None:
            check_decode_threads(decode_threads)

        def fill(unpacked: UnpackedBatch, patches: NDArray[np.uint8]) -> None:
            require_codecs(batch)
            clear_padding(unpacked.patch_valid, patches)

            def decode(row: int) -> None:
                pixels = unpacked.patches(row)
                patches[row, : len(pixels)] = pixels

            for_each_row(unpacked, decode_threads, decode)

        return cls._made(batch, fill if pixels else None, version)

    @classmethod
    def from_fronts(cls, batch: Batch, fill: Fill | None, *, version: int) -> ReplayBatch:
        """A batch whose pixels are decoded already: see :mod:`client.cache`.

        Args:
            batch: each body up to its payload.
            fill: writes the patches; None = they are all zero.
        """

        def write(unpacked: UnpackedBatch, patches: NDArray[np.uint8]) -> None:
            assert fill is not None
            fill(unpacked.patch_valid, patches)

        return cls._made(batch, fill and write, version, has_payloads=False)

    @classmethod
    def _made(
        cls,
        batch: Batch,
        fill: Callable[[UnpackedBatch, NDArray[np.uint8]], object] | None,
        version: int,
        *,
        has_payloads: bool = True,
    ) -> ReplayBatch:
        headers = batch.headers
        if not len(headers):
            raise ValueError("a replay batch needs at least one record")
        patch_sizes = np.unique(headers["patch_px"]).tolist()
        if len(patch_sizes) > 1:
            raise FormatError(
                f"one batch holds patches of one size, these records have {patch_sizes} px; sample by learner_id or "
                "phase",
                patch_px=patch_sizes,
            )
        (patch_px,) = patch_sizes
        unpacked = unpack_batch(batch)
        shape = (*unpacked.patch_valid.shape, patch_px, patch_px, 3)
        if fill is None:
            patches = _untouched_zeros(shape)
        else:
            patches = np.empty(shape, dtype=np.uint8)
            fill(unpacked, patches)
        return cls(
            exemplar_id=headers["exemplar_id"].astype(np.int64),
            class_id=headers["class_id"].astype(np.int64),
            phase=headers["phase"].astype(np.int64),
            score=headers["score"].astype(np.float32),
            rank=headers["rank"].astype(np.int64),
            grid=np.stack([headers["grid_h"], headers["grid_w"]], axis=1).astype(np.int64),
            patch_px=patch_px,
            patches=patches,
            patch_positions=unpacked.patch_positions,
            patch_valid=unpacked.patch_valid,
            token_ids=unpacked.token_ids,
            token_positions=unpacked.token_positions,
            token_valid=unpacked.token_valid,
            text_length=headers["text_length"].astype(np.int64),
            held=batch,
            version=version,
            has_pixels=fill is not None,
            has_payloads=has_payloads,
        )


def clear_padding(patch_valid: NDArray[np.bool_], patches: NDArray[np.uint8]) -> None:
    """Write zeros behind the last patch of each row."""
    counts = patch_valid.sum(axis=1)
    for row in np.flatnonzero(counts < patch_valid.shape[1]).tolist():
        patches[row, counts[row] :] = 0


def require_codecs(batch: Batch) -> None:
    """Find out before anything is decoded whether all of it can be.

    Raises:
        MissingLibraryError: a record's codec needs a library that is not installed here.
    """
    for number in np.unique(batch.headers["codec"]).tolist():
        codec_by_number(number).require()


def check_decode_threads(threads: int) -> None:
    """Refuse a number of threads that makes no sense.

    Raises:
        ValueError: it does not.
    """
    whole("decode_threads", threads, 0, _MOST_ASKED_FOR)


def for_each_row(
    unpacked: UnpackedBatch, threads: int | None, decode: Callable[[int], object], rows: Sequence[int] | None = None
) -> None:
    """Call ``decode`` with the place of each record, in threads where that is worth it or where it is asked for.

    Args:
        rows: these places alone.
    """
    rows = range(len(unpacked)) if rows is None else rows

    def part(rows: Sequence[int]) -> None:
        for row in rows:
            decode(row)

    if threads is None:
        threads = _threads_for(unpacked)
    if threads <= 1:
        part(rows)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="exemplar-decode") as pool:
        list(pool.map(part, [rows[first::threads] for first in range(threads)]))


def _untouched_zeros(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Zeros that nobody is going to write to, and that take no memory and no time until somebody does."""
    size = math.prod(shape)
    # What is larger than 32 MiB glibc asks of the system each time, whose fresh pages are zero; what is smaller, it
    # may take from memory that was used before, and writes zeros over it: 30 MB for 256 records of 20 kB.
    return np.zeros(max(size, _FRESH_BYTES), dtype=np.uint8)[:size].reshape(shape)


def _threads_for(unpacked: UnpackedBatch) -> int:
    if len(unpacked) < 2 or unpacked.canvas_pixels() < _THREADS_FROM_PIXELS * len(unpacked):
        return 1
    return min(_MOST_THREADS, processors(), len(unpacked))
