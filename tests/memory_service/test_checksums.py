from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memory_service.store.checksums import crc32_of_all


@given(st.binary(max_size=20), st.lists(st.binary(max_size=300), max_size=12))
def test_it_is_the_crc_of_everything(before: bytes, pieces: list[bytes]) -> None:
    crcs = np.array([zlib.crc32(piece) for piece in pieces], dtype=np.uint32)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    expected = zlib.crc32(b"".join([before, *pieces]))
    assert crc32_of_all(zlib.crc32(before), crcs, lengths) == expected


def test_long_pieces() -> None:
    pieces = [bytes([number]) * (number * 70_001) for number in range(1, 40)]
    crcs = np.array([zlib.crc32(piece) for piece in pieces])
    lengths = np.array([len(piece) for piece in pieces])
    assert crc32_of_all(0, crcs, lengths) == zlib.crc32(b"".join(pieces))
