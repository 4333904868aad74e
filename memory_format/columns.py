"""The bodies of a batch side by side: what its masks keep, and its tokens, as arrays for all records at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_format.errors import FormatError
from memory_format.masks import BoolArray
from memory_format.record import FLAG_EXTRAS
from memory_format.wire import Batch

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """N bodies. K = most kept patches of one, T = most kept tokens; rows are padded with zeros at their end."""

    patch_valid: BoolArray
    """``(N, K)``: what is content and no padding."""
    patch_positions: IntArray
    """``(N, K)``: place of each kept patch, row-major in its record's own grid, ascending."""
    token_valid: BoolArray
    """``(N, T)``."""
    token_positions: IntArray
    """``(N, T)``: place of each kept token in its record's own text, ascending."""
    token_ids: IntArray
    """``(N, T)``."""
    payload_at: list[int]
    """Where each body's payload begins."""


def read_columns(batch: Batch) -> Columns:
    """The columns of a batch that :func:`~memory_format.wire.check_batch` found good.

    Raises:
        FormatError: ``mask_mismatch``: a mask has bits past its end.
    """
    headers, bodies = batch.headers, batch.bodies
    num_cells = headers["grid_h"].astype(np.int64) * headers["grid_w"]
    text_length = headers["text_length"].astype(np.int64)
    tokens_at = (num_cells + 7) // 8
    ids_at = tokens_at + (text_length + 7) // 8
    keep_masks = [body[:end] for body, end in zip(bodies, tokens_at.tolist(), strict=True)]
    token_masks = [body[a:b] for body, a, b in zip(bodies, tokens_at.tolist(), ids_at.tolist(), strict=True)]
    patch_valid, patch_positions = _kept(keep_masks, num_cells)
    token_valid, token_positions = _kept(token_masks, text_length)
    ids_end = ids_at + 2 * token_valid.sum(axis=1)
    ids = b"".join(body[a:b] for body, a, b in zip(bodies, ids_at.tolist(), ids_end.tolist(), strict=True))
    token_ids = np.zeros(token_valid.shape, dtype=np.int64)
    token_ids[token_valid] = np.frombuffer(ids, dtype="<u2")
    payload_at = ids_end.tolist()
    for row in np.flatnonzero(headers["flags"] & FLAG_EXTRAS).tolist():
        start = payload_at[row]
        payload_at[row] = start + 4 + int.from_bytes(bodies[row][start : start + 4], "little")
    return Columns(patch_valid, patch_positions, token_valid, token_positions, token_ids, payload_at)


def _kept(masks: list[memoryview], num_cells: IntArray) -> tuple[BoolArray, IntArray]:
    """Of N bitmasks, each of its own number of cells: which places of the padded rows are content, and the places of
    the kept cells in them."""
    longest = max(map(len, masks), default=0)
    packed = b"".join(bytes(mask).ljust(longest, b"\0") for mask in masks)
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8).reshape(len(masks), longest), axis=1)
    rows, cells = np.nonzero(bits)
    if (cells >= num_cells[rows]).any():
        raise FormatError("a bitmask has bits set past its cells", code="mask_mismatch")
    counts = np.bincount(rows, minlength=len(masks))
    valid = np.arange(counts.max(initial=0)) < counts[:, None]
    places = np.zeros(valid.shape, dtype=np.int64)
    # Both go row by row, and within a row from the left.
    places[valid] = cells
    return valid, places
