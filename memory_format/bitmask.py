"""Keep masks as bits.

A mask is a boolean array, True = kept. On disk and on the wire it is a bitmask: row-major, the first cell in
the most significant bit of the first byte (``numpy.packbits``), the unused bits of the last byte zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memory_format.errors import FormatError

BoolArray = NDArray[np.bool_]


def num_mask_bytes(num_cells: int) -> int:
    """Bytes of the bitmask of ``num_cells`` cells."""
    return (num_cells + 7) // 8


def mask_to_bytes(keep_mask: BoolArray) -> bytes:
    """``(h, w)`` or ``(N,)`` bool -> bitmask."""
    return np.packbits(np.asarray(keep_mask, dtype=bool).reshape(-1)).tobytes()


def count_kept(bitmask: bytes) -> int:
    """Cells that a bitmask keeps, without unpacking it."""
    return int.from_bytes(bitmask, "big").bit_count()


def mask_from_bytes(bitmask: bytes | memoryview, num_cells: int) -> BoolArray:
    """Bitmask -> ``(num_cells,)`` bool.

    Raises:
        FormatError: the bitmask is not exactly ``num_mask_bytes(num_cells)`` long, or has a bit set past its
            end (two byte strings for one mask would make equal records unequal).
    """
    if len(bitmask) != num_mask_bytes(num_cells):
        raise FormatError(
            f"a bitmask of {num_cells} cells takes {num_mask_bytes(num_cells)} bytes, got {len(bitmask)}",
            code="mask_mismatch",
        )
    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8))
    if bits[num_cells:].any():
        raise FormatError(f"the bitmask has bits set past its {num_cells} cells", code="mask_mismatch")
    return bits[:num_cells].astype(bool)


def mask_to_indices(keep_mask: BoolArray) -> NDArray[np.int64]:
    """Row-major indices of the kept cells, ``(K,)``, ascending."""
    return np.flatnonzero(np.asarray(keep_mask).reshape(-1)).astype(np.int64)


def mask_from_indices(keep_indices: NDArray[np.integer], num_cells: int) -> BoolArray:
    """Inverse of :func:`mask_to_indices`: ``(num_cells,)`` bool.

    Raises:
        FormatError: an index is repeated or outside ``[0, num_cells)``.
    """
    indices = np.asarray(keep_indices, dtype=np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= num_cells):
        raise FormatError(f"keep_indices must lie in [0, {num_cells})", code="mask_mismatch")
    mask = np.zeros(num_cells, dtype=bool)
    mask[indices] = True
    if int(mask.sum()) != indices.size:
        raise FormatError("keep_indices holds an index twice", code="mask_mismatch")
    return mask
