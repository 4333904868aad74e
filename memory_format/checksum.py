"""CRC-32 as zlib computes it (ISO 3309), by ISA-L: the same numbers, several times as fast, for every record that is
pushed or drawn (`python -m benchmarks.decisions.checksum`). A plain sum would not do for masks: HDF5's Fletcher32 takes
a word of zeros and one of ones for the same (findings/numcodecs_fletcher32_words.sh)."""

from collections.abc import Iterable

from isal.isal_zlib import crc32, crc32_combine

__all__ = ["crc32", "crc32_of_all"]


def crc32_of_all(start: int, crcs: Iterable[int], lengths: Iterable[int]) -> int:
    """The CRC of pieces behind what ``start`` is of, from theirs: what is checked once need not be read again."""
    for crc, length in zip(crcs, lengths, strict=True):
        start = crc32_combine(start, crc, length)
    return start
