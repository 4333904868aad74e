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
    """Bitmask -> ``(num_cells,)`` bool; ``mask_mismatch`` where it is of another length or has a bit past its cells."""
    check_mask_bytes(bitmask, num_cells)
    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8))
    if bits[num_cells:].any():
        raise bits_past(num_cells)
    return bits[:num_cells].astype(bool)


def check_mask_bytes(bitmask: bytes | memoryview, num_cells: int) -> None:
    """Refuse a bitmask of another length than that of so many cells."""
    if len(bitmask) != num_mask_bytes(num_cells):
        raise FormatError(
            f"a bitmask of {num_cells} cells takes {num_mask_bytes(num_cells)} bytes, got {len(bitmask)}",
            code="mask_mismatch",
        )


def bits_past(num_cells: int) -> FormatError:
    """The error of a bitmask whose unused bits are not zero: two byte strings for one mask would make equal records
    unequal."""
    return FormatError(f"the bitmask has bits set past its {num_cells} cells", code="mask_mismatch")
