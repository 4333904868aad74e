from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from memory_format.checksum import crc32_of_all


@given(st.binary(max_size=20), st.lists(st.binary(max_size=300), max_size=12))
def test_it_is_the_crc_of_everything(before: bytes, pieces: list[bytes]) -> None:
    expected = zlib.crc32(b"".join([before, *pieces]))
    assert crc32_of_all(zlib.crc32(before), map(zlib.crc32, pieces), map(len, pieces)) == expected


def test_long_pieces() -> None:
    pieces = [bytes([number]) * (number * 70_001) for number in range(1, 40)]
    assert crc32_of_all(0, map(zlib.crc32, pieces), map(len, pieces)) == zlib.crc32(b"".join(pieces))
