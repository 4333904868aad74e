"""A batch's masks and texts side by side, without a ``Record`` for each: what a replay batch is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_format.bitmask import BoolArray, bits_past, count_kept
from memory_format.body import cut_short, extras_bytes, extras_of
from memory_format.canvas import ByteArray, canvas_grid, take_out
from memory_format.codecs import codec_by_number
from memory_format.errors import at_index
from memory_format.extras import decode_extras
from memory_format.header import (
    FLAG_EXTRAS,
    FLAG_PARTS,
    FLAG_WIDE_TOKENS,
    KNOWN_FLAGS,
    layout_of,
    newer_flags,
    token_dtype,
)
from memory_format.parts import PartHead, further_of
from memory_format.record import split_row
from memory_format.wire import Batch

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class UnpackedBatch:
    """B records side by side, padded with zeros at the end: K = most kept patches, T = most kept tokens of one."""

    batch: Batch
    patch_positions: IntArray
    """``(B, K)``: places of the kept patches, row-major in each record's own grid."""
    patch_valid: BoolArray
    """``(B, K)``: what is content, and not padding."""
    token_ids: IntArray
    """``(B, T)``."""
    token_positions: IntArray
    """``(B, T)``: places of the kept tokens in each record's original text."""
    token_valid: BoolArray
    """``(B, T)``."""
    payload_at: IntArray
    """``(B,)``: where the payload begins in each body."""
    parts: Mapping[int, tuple[PartHead, ...]]
    """What records are made of that have several parts, by place. Their patches are those of all their pictures."""

    def __len__(self) -> int:
        return len(self.batch)

    def canvas_pixels(self) -> int:
        """Pixels of all coded images together: what decoding them takes."""
        headers = self.batch.headers
        counts = self.patch_valid.sum(axis=1).tolist()
        sides = zip(*(headers[name].tolist() for name in ("grid_h", "grid_w", "patch_px", "flags")), strict=True)
        total = 0
        for index, (count, (h, w, patch_px, flags)) in enumerate(zip(counts, sides, strict=True)):
            for picture in further_of(self.parts.get(index, ())):
                kept = count_kept(picture.keep_mask_bytes)
                rows, columns = canvas_grid(kept, picture.grid, layout_of(picture.layout_flags), patch_px)
                total += rows * columns * patch_px**2
                count -= kept
            rows, columns = canvas_grid(count, (h, w), layout_of(flags), patch_px)
            total += rows * columns * patch_px**2
        return total

    def patches(self, index: int) -> ByteArray:
        """Decode one record's kept patches: ``(K, P, P, 3)`` uint8, as many as it has, of all its pictures.

        Raises:
            FormatError: the payload is damaged or of another size than the mask says.
            MissingLibraryError: its codec needs a library that is not installed.
        """
        h, w, patch_px, codec_number, flags = self.batch.headers[index].item()[9:]
        if index in self.parts:
            record = split_row(self.batch.headers[index].item(), self.batch.bodies[index], "")
            return np.concatenate([record.picture(place).patches() for place in range(record.num_pictures)])
        places, layout = self.patch_positions[index, self.patch_valid[index]], layout_of(flags)
        rows, columns = canvas_grid(len(places), (h, w), layout, patch_px)
        payload = bytes(self.batch.bodies[index][self.payload_at[index] :])
        canvas = codec_by_number(codec_number).read_checked(payload, (rows * patch_px, columns * patch_px))
        return take_out(canvas, places, patch_px, layout)


def unpack_batch(batch: Batch) -> UnpackedBatch:
    """Take a batch's masks and texts out of its bodies. Payloads stay as they are.

    Args:
        batch: as :func:`~memory_format.wire.read_batch` gives it; :func:`~memory_format.wire.check_batch` says more
            of what is wrong with one.

    Raises:
        FormatError: a body is too short for what its header says, a mask has bits set past its cells, or flags are of
            a newer version; with the record's ``index``.
    """
    headers, bodies = batch.headers, batch.bodies
    cells = headers["grid_h"].astype(np.int64) * headers["grid_w"]
    lengths = headers["text_length"].astype(np.int64)
    flags = headers["flags"]
    for index in np.flatnonzero(flags & ~np.uint8(KNOWN_FLAGS)).tolist():
        raise at_index(newer_flags(int(flags[index])), index)
    sizes = np.fromiter(map(len, bodies), np.int64, len(bodies))
    tokens_at = (cells + 7) // 8
    ids_at = tokens_at + (lengths + 7) // 8
    _expect(ids_at <= sizes, bodies)
    num_patches, patch_positions = _kept(bodies, np.zeros_like(tokens_at), tokens_at, cells)
    num_tokens, token_positions = _kept(bodies, tokens_at, ids_at, lengths)
    wide = flags & FLAG_WIDE_TOKENS != 0
    payload_at = ids_at + np.where(wide, 4, 2) * num_tokens
    _expect(payload_at <= sizes, bodies)
    token_ids = _token_ids(bodies, ids_at, payload_at, wide)
    for index in np.flatnonzero(flags & FLAG_EXTRAS).tolist():
        payload_at[index] += extras_bytes(bodies[index], int(payload_at[index]))
    _expect(payload_at <= sizes, bodies)
    parts = {
        index: decode_extras(extras_of(headers[index], bodies[index])).parts
        for index in np.flatnonzero(flags & FLAG_PARTS).tolist()
    }
    if parts:
        num_patches, patch_positions = _with_further(num_patches, patch_positions, parts)
    patch_valid, token_valid = _first(num_patches), _first(num_tokens)
    return UnpackedBatch(
        batch=batch,
        patch_positions=_padded(patch_positions, patch_valid),
        patch_valid=patch_valid,
        token_ids=_padded(token_ids, token_valid),
        token_positions=_padded(token_positions, token_valid),
        token_valid=token_valid,
        payload_at=payload_at,
        parts=parts,
    )


def _expect(fits: BoolArray, bodies: Sequence[memoryview]) -> None:
    if not fits.all():
        index = int(np.argmin(fits))
        raise at_index(cut_short(bodies[index]), index)


def _joined(bodies: Sequence[memoryview], starts: IntArray, ends: IntArray) -> bytes:
    """A part of each body, end to end."""
    return b"".join([body[a:b] for body, a, b in zip(bodies, starts.tolist(), ends.tolist(), strict=True)])


def _token_ids(
    bodies: Sequence[memoryview], starts: IntArray, ends: IntArray, wide: BoolArray
) -> NDArray[np.unsignedinteger]:
    """The kept ids of each body, one's behind the other's."""
    if not wide.any():
        return np.frombuffer(_joined(bodies, starts, ends), token_dtype(0))
    parts = zip(bodies, starts.tolist(), ends.tolist(), wide.tolist(), strict=True)
    return np.concatenate(
        [np.frombuffer(body[a:b], token_dtype(FLAG_WIDE_TOKENS if is_wide else 0)) for body, a, b, is_wide in parts]
    )


def _kept(
    bodies: Sequence[memoryview], starts: IntArray, ends: IntArray, num_cells: IntArray
) -> tuple[IntArray, IntArray]:
    """What a bitmask in each body keeps: how many cells, ``(B,)``, and which, one body's behind the other's.

    Raises:
        FormatError: ``mask_mismatch``: one has bits set past its cells.
    """
    bits = np.unpackbits(np.frombuffer(_joined(bodies, starts, ends), dtype=np.uint8))
    last_bits = 8 * np.cumsum(ends - starts)
    first_bits = last_bits - 8 * (ends - starts)
    seen = np.concatenate(([0], np.cumsum(bits, dtype=np.int64)))
    counts = seen[last_bits] - seen[first_bits]
    places = np.flatnonzero(bits) - np.repeat(first_bits, counts)
    past = places >= np.repeat(num_cells, counts)
    if past.any():
        index = int(np.repeat(np.arange(len(counts)), counts)[past][0])
        raise at_index(bits_past(int(num_cells[index])), index)
    return counts, places


def _with_further(
    counts: IntArray, places: IntArray, parts: Mapping[int, tuple[PartHead, ...]]
) -> tuple[IntArray, IntArray]:
    """How many patches records have and where in their pictures, with those of their further pictures."""
    rows = np.split(places, np.cumsum(counts)[:-1])
    for index, heads in parts.items():
        masks = [np.frombuffer(picture.keep_mask_bytes, np.uint8) for picture in further_of(heads)]
        rows[index] = np.concatenate([rows[index], *(np.flatnonzero(np.unpackbits(mask)) for mask in masks)])
    return np.array(list(map(len, rows)), dtype=np.int64), np.concatenate(rows)


def _first(counts: IntArray) -> BoolArray:
    """``(B, most)``: True for the first so many of each row."""
    return np.asarray(np.arange(int(counts.max(initial=0))) < counts[:, None])


def _padded(values: NDArray[np.integer], valid: BoolArray) -> IntArray:
    padded = np.zeros(valid.shape, dtype=np.int64)
    padded[valid] = values
    return padded
