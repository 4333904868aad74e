"""A replay batch: records decoded into padded numpy arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client._params import whole
from memory_format import Dropped, FormatError, Record, require_codec
from memory_format.in_place import to_image
from memory_format.wire import record_list

IntArray = NDArray[np.int64]

# Below this size of a coded image a record decodes in 0.1 ms or less, most of it under the interpreter's lock, and
# threads cost more than they bring. 256 records on 2 cores, one thread and two, 27 % kept: of 112x112 px (3,328 coded)
# WebP 11.6 and 12.2 ms, JPEG 7.7 and 9.0 ms; of 384x384 px (39,936 coded) WebP 65 and 43 ms, AVIF 98 and 59 ms,
# JPEG 25 and 29 ms.
_THREADS_FROM_PIXELS = 128 * 128
_MOST_THREADS = 8
_MOST_ASKED_FOR = 1024


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
    """``(B, K, P, P, 3)`` RGB."""
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
    records: tuple[Record, ...]
    """The records themselves, for their learner ids, user JSON and arrays."""
    version: int = 0
    """Of the buffer, or of the snapshot, that it was drawn from; 0 where nobody said."""
    has_pixels: bool = True
    """False where the patches were left undecoded, and are all zero."""

    def __len__(self) -> int:
        return len(self.records)

    def images(self, dropped: Dropped = "grey") -> list[NDArray[np.uint8]]:
        """The B pictures, kept patches in place and the dropped ones flat: ``(h*P, w*P, 3)`` uint8 RGB each, with
        ``transparent`` ``(h*P, w*P, 4)``. Each has the size of its own grid.

        Raises:
            ValueError: the batch was made with ``pixels=False``.
            FormatError: ``dropped`` is no such word, or a picture has more than 16 million pixels.
        """
        if not self.has_pixels:
            raise ValueError("this batch has no pixels: draw it without pixels=False, or decode its records")
        return [
            to_image(patches[valid], places[valid], record.grid, dropped)
            for record, patches, places, valid in zip(
                self.records, self.patches, self.patch_positions, self.patch_valid, strict=True
            )
        ]

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
        if decode_threads is not None:
            whole("decode_threads", decode_threads, 0, _MOST_ASKED_FOR)
        if not rows:
            raise ValueError("a replay batch needs at least one record")
        sizes = sorted({record.patch_px for record in rows})
        if len(sizes) > 1:
            raise FormatError(
                f"one batch holds patches of one size, these records have {sizes} px; sample by learner_id or phase",
                patch_px=sizes,
            )
        for codec_id in {record.codec_id for record in rows if pixels}:
            require_codec(codec_id)
        patch_px = sizes[0]
        num_patches = [record.num_kept for record in rows]
        num_tokens = [len(record.token_ids_bytes) // 2 for record in rows]
        patch_valid = np.arange(max(num_patches)) < np.asarray(num_patches)[:, None]
        token_valid = np.arange(max(num_tokens)) < np.asarray(num_tokens)[:, None]
        patches = np.zeros((*patch_valid.shape, patch_px, patch_px, 3), dtype=np.uint8)
        patch_positions = np.zeros(patch_valid.shape, dtype=np.int64)
        token_ids = np.zeros(token_valid.shape, dtype=np.int64)
        token_positions = np.zeros(token_valid.shape, dtype=np.int64)
        for row, record in enumerate(rows):
            patch_positions[row, : num_patches[row]] = record.keep_indices
            token_ids[row, : num_tokens[row]] = record.token_ids
            token_positions[row, : num_tokens[row]] = record.token_positions

        def decode(part: range) -> None:
            for row in part:
                patches[row, : num_patches[row]] = rows[row].patches()

        threads = _threads_for(rows) if decode_threads is None else decode_threads
        if not pixels:
            pass
        elif threads <= 1:
            decode(range(len(rows)))
        else:
            with ThreadPoolExecutor(threads, thread_name_prefix="exemplar-decode") as pool:
                list(pool.map(decode, [range(first, len(rows), threads) for first in range(threads)]))
        return cls(
            exemplar_id=np.array([record.exemplar_id for record in rows], dtype=np.int64),
            class_id=np.array([record.class_id for record in rows], dtype=np.int64),
            phase=np.array([record.phase for record in rows], dtype=np.int64),
            score=np.array([record.score for record in rows], dtype=np.float32),
            rank=np.array([record.rank for record in rows], dtype=np.int64),
            grid=np.array([record.grid for record in rows], dtype=np.int64),
            patch_px=patch_px,
            patches=patches,
            patch_positions=patch_positions,
            patch_valid=patch_valid,
            token_ids=token_ids,
            token_positions=token_positions,
            token_valid=token_valid,
            text_length=np.array([record.text_length for record in rows], dtype=np.int64),
            records=rows,
            version=version,
            has_pixels=pixels,
        )


def _threads_for(records: tuple[Record, ...]) -> int:
    pixels = sum(height * width for height, width in (record.canvas_size for record in records))
    if len(records) < 2 or pixels < _THREADS_FROM_PIXELS * len(records):
        return 1
    return min(_MOST_THREADS, os.cpu_count() or 1, len(records))
