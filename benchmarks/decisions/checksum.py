"""CRC-32 of a batch by ISA-L and by zlib: what checking every record costs a draw.

python -m benchmarks.decisions.checksum
"""

from __future__ import annotations

import os
import statistics
import time
import zlib
from collections.abc import Callable

from isal import isal_zlib

RECORDS = 256
ROUNDS = 50


def main() -> None:
    print(f"{RECORDS} records, milliseconds (median of {ROUNDS}); zlib {zlib.ZLIB_RUNTIME_VERSION}")
    for num_bytes in (200, 2_000, 20_000):
        bodies = [os.urandom(num_bytes) for _ in range(RECORDS)]
        taken: dict[str, list[float]] = {"zlib": [], "ISA-L": []}
        for _ in range(ROUNDS):
            for name, crc32 in (("zlib", zlib.crc32), ("ISA-L", isal_zlib.crc32)):
                taken[name].append(_seconds(crc32, bodies))
        zlib_ms, isal_ms = (1e3 * statistics.median(taken[name]) for name in ("zlib", "ISA-L"))
        print(f"{num_bytes:>6} bytes each: zlib {zlib_ms:.3f}, ISA-L {isal_ms:.3f}: x {zlib_ms / isal_ms:.1f}")


def _seconds(crc32: Callable[[bytes], int], bodies: list[bytes]) -> float:
    started = time.perf_counter()
    for body in bodies:
        crc32(body)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
