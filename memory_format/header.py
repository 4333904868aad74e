"""A record's header: 39 bytes, one row of small columns.

In segments and in memory it is a row of :data:`HEADER_DTYPE`. Code that looks at one record at a time takes it as a
:data:`HeaderRow` of plain numbers.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import checksum
from memory_format.canvas import Layout
from memory_format.errors import FormatError

HEADER_DTYPE: Final = np.dtype(
    [
        ("exemplar_id", "<u8"),
        ("class_id", "<u4"),
        ("rank", "<u4"),
        ("score", "<f4"),
        ("offset", "<u4"),
        ("crc32", "<u4"),
        ("phase", "<u2"),
        ("learner", "<u2"),
        ("text_length", "<u2"),
        ("grid_h", "u1"),
        ("grid_w", "u1"),
        ("patch_px", "u1"),
        ("codec", "u1"),
        ("flags", "u1"),
    ]
)
"""The fixed part of a record. ``offset`` is the body's place in its segment, ``learner`` an index into the segment's
list of learner ids; outside of segments both are 0."""

HEADER_BYTES: Final = HEADER_DTYPE.itemsize

_FIXED_DTYPE: Final = np.dtype(
    [
        (name, HEADER_DTYPE[name])
        for name in ("class_id", "crc32", "phase", "text_length", "grid_h", "grid_w", "patch_px", "codec", "flags")
    ]
)

HeaderRow = tuple[int, int, int, float, int, int, int, int, int, int, int, int, int, int]
"""A row of :data:`HEADER_DTYPE` as plain numbers in its order, what ``header.item()`` and ``headers.tolist()`` give:
taking them out of numpy one by one costs several times as much."""

FLAG_IN_PLACE: Final = 1
FLAG_EXTRAS: Final = 2
FLAG_STRIP: Final = 4
FLAG_TYPED: Final = 8
"""The extras say more than a JSON and float16 arrays. With :data:`FLAG_EXTRAS` only."""
FLAG_WIDE_TOKENS: Final = 16
"""Token ids take four bytes each, as one of them does not fit two."""
FLAG_PARTS: Final = 32
"""There are several pictures and texts. With :data:`FLAG_TYPED` only."""
FLAG_REVISED: Final = 64
"""Arrays of it were replaced since it was pushed: the extras say of which exemplar. With :data:`FLAG_EXTRAS` only."""
KNOWN_FLAGS: Final = (
    FLAG_IN_PLACE | FLAG_EXTRAS | FLAG_STRIP | FLAG_TYPED | FLAG_WIDE_TOKENS | FLAG_PARTS | FLAG_REVISED
)
LAYOUT_FLAGS: Final[dict[Layout, int]] = {"mosaic": 0, "in_place": FLAG_IN_PLACE, "strip": FLAG_STRIP}
_NARROW: Final = np.dtype("<u2")
_WIDE: Final = np.dtype("<u4")
_LAYOUTS: Final = {flags: layout for layout, flags in LAYOUT_FLAGS.items()}

LEARNER_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_SCORE: Final = 3.4028234663852886e38
"""The largest float32."""


def check_header(row: HeaderRow, learner_id: str, known_learners: set[str]) -> None:
    """Refuse a header that no record has. What it takes the body to see is not looked at.

    Args:
        row: ``header.item()``; ``offset`` and ``learner`` do not matter.
        learner_id: the name behind ``learner``.
        known_learners: learner ids found good so far; this one is added, so that a batch pays once for each.

    Raises:
        FormatError: ``invalid_record``.
    """
    score, h, w, patch_px, flags = row[3], row[9], row[10], row[11], row[13]
    if not (h and w and patch_px):
        raise bad_sides((h, w), patch_px)
    # The comparison is false for NaN, and refuses what would become infinite in its float32.
    if not abs(score) <= MAX_SCORE:
        raise FormatError(f"score must be a finite number, got {score}")
    if learner_id not in known_learners:
        if not LEARNER_ID_PATTERN.fullmatch(learner_id):
            raise FormatError(f"learner_id must be 1..64 of A-Z a-z 0-9 . _ -, got {learner_id[:100]!r}")
        known_learners.add(learner_id)
    if flags & ~KNOWN_FLAGS:
        raise newer_flags(flags)


def fingerprints(headers: NDArray[np.void]) -> list[int]:
    """What tells records of one id apart: of each, the CRC-32 of what never changes in its header, ``crc32`` included.

    Two records may have the same body, and another class, phase or grid.

    Args:
        headers: ``(N,)`` with the fields of :data:`HEADER_DTYPE`, at whatever places.
    """
    fixed: NDArray[Any] = np.empty(len(headers), _FIXED_DTYPE)
    for name in _FIXED_DTYPE.names or ():
        fixed[name] = headers[name]
    data, size = fixed.tobytes(), _FIXED_DTYPE.itemsize
    return [checksum.crc32(data[start : start + size]) for start in range(0, len(data), size)]


def layout_of(flags: int) -> Layout:
    """The layout that a header's flags say.

    Raises:
        FormatError: they say two.
    """
    try:
        return _LAYOUTS[flags & (FLAG_IN_PLACE | FLAG_STRIP)]
    except KeyError:
        raise FormatError(f"record flags {flags:#x} say two layouts") from None


def token_dtype(flags: int) -> np.dtype[np.unsignedinteger]:
    """Of the token ids of a record with these flags."""
    return _WIDE if flags & FLAG_WIDE_TOKENS else _NARROW


def newer_flags(flags: int) -> FormatError:
    """The error of flags that are not known here."""
    return FormatError(f"record flags {flags:#x} were written by a newer version")


def bad_sides(grid: tuple[int, int], patch_px: int) -> FormatError:
    """The error of a grid or a patch without extent, or with more than a byte says."""
    return FormatError(f"grid sides and patch_px must lie in 1..255, got {grid} and {patch_px}")
