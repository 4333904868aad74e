"""CRC-32 of bytes end to end, from the CRCs of the pieces: what is checked once need not be read again."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0xEDB88320
"""Of CRC-32 (ISO 3309), its bits reversed as zlib has them."""


def crc32_of_all(start: int, crcs: NDArray[Any], lengths: NDArray[Any]) -> int:
    """What ``zlib.crc32`` gives for all pieces, one after another.

    CRCs are linear: that of ``a + b`` is the CRC of ``a`` moved on by ``len(b)`` zero bytes, xor that of ``b``
    (zlib's ``crc32_combine``). So every piece's CRC is moved on by all that follows it, for all pieces at once.

    Args:
        start: CRC of what is before the first piece, 0 where that is nothing.
        crcs: ``(N,)`` CRCs of the pieces.
        lengths: ``(N,)`` their bytes.
    """
    sizes = np.append(np.int64(0), np.asarray(lengths, dtype=np.int64))
    values = np.append(np.uint32(start), np.asarray(crcs, dtype=np.uint32))
    following = int(sizes.sum()) - np.cumsum(sizes)
    bit = 0
    while (following >> bit).any():
        moves = ((following >> bit) & 1).astype(bool)
        values[moves] = _applied(_zero_bytes(bit), values[moves])
        bit += 1
    return int(np.bitwise_xor.reduce(values))


@cache
def _zero_bytes(power: int) -> NDArray[np.uint32]:
    """What ``2**power`` zero bytes make of a CRC: ``(4, 256)``, a table for each of its bytes."""
    if power == 0:
        values = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            values = np.where(values & 1, (values >> 1) ^ np.uint32(_POLYNOMIAL), values >> 1).astype(np.uint32)
        others = [np.arange(256, dtype=np.uint32) << np.uint32(8 * (byte - 1)) for byte in range(1, 4)]
        return np.stack([values, *others])
    half = _zero_bytes(power - 1)
    # The same once more.
    return np.stack([_applied(half, table) for table in half])


def _applied(tables: NDArray[np.uint32], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    out = np.zeros_like(values)
    for byte in range(4):
        out ^= tables[byte][(values >> np.uint32(8 * byte)) & np.uint32(0xFF)]
    return out
