"""The tables that JPEG files repeat: ITU-T T.81, annex K, and the scaling that libjpeg made common."""

from __future__ import annotations

# fmt: off
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)
# fmt: on
ZIGZAG = tuple(
    sorted(range(64), key=lambda i: (s := i // 8 + i % 8, i // 8 if s % 2 else i % 8)),
)
"""Places in a row-major block of 8x8, in the order in which a file holds them."""


def segment(marker: int, *parts: bytes) -> bytes:
    """A marker, the length of what follows, and that."""
    content = b"".join(parts)
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def quantisation_tables(quality: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divisors for luma and chroma, 64 each, row-major (annex K.1, scaled as libjpeg's ``jpeg_quality_scaling``)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (tuple(min(max((q * scale + 50) // 100, 1), 255) for q in base) for base in (_LUMA, _CHROMA))
    return luma, chroma


# Annex K.3: luma DC and AC, chroma DC and AC.
HUFFMAN_TABLES = segment(
    0xC4,
    bytes.fromhex(
        "0000010501010101010100000000000000000102030405060708090a0b100002010303020403050504040000017d010203000411"
        "05122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a43"
        "4445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5"
        "a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
        "0100030101010101010101010000000000000102030405060708090a0b1100020102040403040705040400010277000102031104"
        "052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a"
        "434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3"
        "a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
    ),
)
