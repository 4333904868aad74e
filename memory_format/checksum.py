"""CRC-32 as zlib computes it (ISO 3309), by ISA-L: the same numbers, several times as fast.

It is on the path of every record that is pushed or drawn: `python benchmarks/checksum.py` compares the two.
"""

from isal.isal_zlib import crc32

__all__ = ["crc32"]
