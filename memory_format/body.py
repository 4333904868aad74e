"""A record's body: one contiguous byte string, read with one ``pread``.

::

    keep bitmask | token bitmask | token ids (uint16 or uint32 LE) | [extras length (uint32 LE) | extras] | payload

It has no lengths of its own: grid, text length and flags of the header say where its parts lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from memory_format.bitmask import bits_past, count_kept, num_mask_bytes
from memory_format.canvas import canvas_grid, check_size
from memory_format.codecs import codec_by_number
from memory_format.codecs.retired import RETIRED
from memory_format.errors import FormatError
from memory_format.extras import Extras, decode_extras
from memory_format.header import (
    FLAG_EXTRAS,
    FLAG_PARTS,
    FLAG_REVISED,
    FLAG_TYPED,
    FLAG_WIDE_TOKENS,
    HeaderRow,
    check_header,
    layout_of,
    token_dtype,
)
from memory_format.parts import Said, further_of, payload_spans

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
MAX_EXTRAS_BYTES: Final = 1024 * 1024

_NO_EXTRAS: Final = Extras()
_EXTRAS_FLAGS: Final = FLAG_TYPED | FLAG_PARTS | FLAG_REVISED
_ANY_EXTRAS: Final = FLAG_EXTRAS | _EXTRAS_FLAGS
_TEXT_FLAGS: Final = np.uint8(FLAG_WIDE_TOKENS)
"""What a header's flags say of the text."""


def places(h: int, w: int, length: int, flags: int, body: bytes | memoryview) -> tuple[int, int, int, int]:
    """Where a body's token mask, token ids, extras (their length) and payload begin.

    In a body that is cut short, the first place that is wrong, and all after it, lie past its end.
    """
    tokens_at = (h * w + 7) // 8
    ids_at = tokens_at + (length + 7) // 8
    kept = int.from_bytes(body[tokens_at:ids_at], "big").bit_count()
    extras_at = ids_at + (4 if flags & FLAG_WIDE_TOKENS else 2) * kept
    if not flags & FLAG_EXTRAS:
        return tokens_at, ids_at, extras_at, extras_at
    return tokens_at, ids_at, extras_at, extras_at + extras_bytes(body, extras_at)


def extras_bytes(body: bytes | memoryview, extras_at: int) -> int:
    """Bytes of the extras and of their length before them."""
    return 4 + int.from_bytes(body[extras_at : extras_at + 4], "little")


def extras_of(header: np.void, body: bytes | memoryview) -> bytes:
    """The extras in a body, of which what is behind them may be left out; empty where there are none.

    Raises:
        FormatError: ``corrupt_record`` where the body is too short for them.
    """
    if not header["flags"] & FLAG_EXTRAS:
        return b""
    _, _, extras_at, payload_at = _places_of(header, body)
    return bytes(body[extras_at + 4 : payload_at])


def split_body(header: np.void, body: bytes | memoryview) -> tuple[bytes | memoryview, bytes | memoryview]:
    """A body up to its extras, or to where they would be, and behind them. Raises ``FormatError``: it is cut short."""
    _, _, extras_at, payload_at = _places_of(header, body)
    return body[:extras_at], body[payload_at:]


def check_row(row: HeaderRow, learner_id: str, body: bytes | memoryview, known_learners: set[str]) -> None:
    """Check everything about a record that does not need its pixels decoded. The CRC is not looked at.

    Args:
        row: ``header.item()``; ``offset`` and ``learner`` do not matter.
        body: the record's bytes; only its masks and extras are copied.
        known_learners: learner ids found good so far; this one is added, so that a batch pays once for each.

    Raises:
        FormatError: with a code that says which part is wrong.
    """
    check_header(row, learner_id, known_learners)
    length, h, w, patch_px, codec_number, flags = row[8:]
    tokens_at, ids_at, extras_at, payload_at = places(h, w, length, flags, body)
    if extras_at > len(body):
        raise FormatError(
            f"a body of {len(body)} bytes is too short for the masks of {h}x{w} cells and {length} tokens "
            "and the ids of the kept tokens",
            code="mask_mismatch",
        )
    num_kept = int.from_bytes(body[:tokens_at], "big").bit_count()
    if num_kept == 0:
        raise FormatError("the keep mask keeps no patch", code="mask_mismatch")
    if h * w & 7 and body[tokens_at - 1] & (0xFF >> (h * w & 7)):
        raise bits_past(h * w)
    if length & 7 and body[ids_at - 1] & (0xFF >> (length & 7)):
        raise bits_past(length)
    if flags & FLAG_WIDE_TOKENS:
        _check_wide(body, ids_at, extras_at)
    extras = _checked_extras(body, extras_at, payload_at, flags) if flags & _ANY_EXTRAS else _NO_EXTRAS
    if len(body) > MAX_BODY_BYTES:
        raise too_large(len(body))
    size = canvas_px(num_kept, (h, w), flags, patch_px)
    if extras.parts:
        _check_parts(extras, body[payload_at:], size, row)
        return
    # Codecs read a header alike from bytes and from a view of them.
    codec_by_number(codec_number).check_size(cast("bytes", body[payload_at:]), size)


def _check_parts(extras: Extras, payloads: bytes | memoryview, size: tuple[int, int], row: HeaderRow) -> None:
    length, patch_px, codec = row[8], row[11], codec_by_number(row[12])
    said = sum(part.text_length for part in extras.parts if isinstance(part, Said))
    if said != length:
        raise FormatError(f"the parts' texts have {said} tokens, the record has {length}", code="mask_mismatch")
    for payload, px in zip(_payloads(extras, payloads), (size, *_sizes(extras, patch_px)), strict=True):
        codec.check_size(cast("bytes", payload), px)


def check_payload(row: HeaderRow, body: bytes | memoryview) -> None:
    """Decode the payload of a record that :func:`check_row` found good, and throw the pixels away. One of a codec of
    earlier versions, which nothing here decodes, is left as it is.

    Raises:
        FormatError: it cannot be decoded, or to another size.
        MissingLibraryError: ``codec_unavailable``: its codec does not work here.
    """
    length, h, w, patch_px, codec_number, flags = row[8:]
    codec = codec_by_number(codec_number)
    if codec in RETIRED:
        return
    tokens_at, _, extras_at, payload_at = places(h, w, length, flags, body)
    num_kept = int.from_bytes(body[:tokens_at], "big").bit_count()
    size = canvas_px(num_kept, (h, w), flags, patch_px)
    extras = decode_extras(bytes(body[extras_at + 4 : payload_at])) if flags & FLAG_PARTS else _NO_EXTRAS
    sizes = (size, *_sizes(extras, patch_px))
    for payload, px in zip(_payloads(extras, body[payload_at:]), sizes, strict=True):
        codec.read_checked(bytes(payload), px)


def _payloads(extras: Extras, payloads: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """Those of a record's pictures, taken apart."""
    for start, end in payload_spans(extras.parts, len(payloads)):
        yield payloads[start:end]


def _sizes(extras: Extras, patch_px: int) -> Iterator[tuple[int, int]]:
    """Heights and widths of what the payloads behind the first decode to."""
    for picture in further_of(extras.parts):
        yield canvas_px(count_kept(picture.keep_mask_bytes), picture.grid, picture.layout_flags, patch_px)


# Records of a batch are mostly of a few sizes.
@lru_cache(maxsize=4096)
def canvas_px(num_kept: int, grid: tuple[int, int], flags: int, patch_px: int) -> tuple[int, int]:
    """Height and width of what a payload decodes to.

    Raises:
        FormatError: ``invalid_record``: no picture may be as large.
    """
    rows, columns = canvas_grid(num_kept, grid, layout_of(flags), patch_px)
    height, width = rows * patch_px, columns * patch_px
    check_size(height, width, "invalid_record")
    return height, width


def _check_wide(body: bytes | memoryview, ids_at: int, extras_at: int) -> None:
    # Or a record could be written in two ways.
    if not np.frombuffer(body[ids_at:extras_at], "<u4").max(initial=0) > 0xFFFF:
        raise FormatError("the flags announce token ids of 32 bits, and all fit 16: leave the flag out")


def _checked_extras(body: bytes | memoryview, extras_at: int, payload_at: int, flags: int) -> Extras:
    if not flags & FLAG_EXTRAS:
        raise FormatError("the flags announce typed extras, and no extras")
    num_bytes = payload_at - extras_at - 4
    if num_bytes > MAX_EXTRAS_BYTES:
        raise too_large_extras(num_bytes)
    if payload_at > len(body):
        raise FormatError(f"a body of {len(body)} bytes ends inside its extras")
    if num_bytes == 0:
        # Or a record without extras could be written in two ways.
        raise FormatError("the flags announce extras, and there are none: leave the flag out")
    extras = decode_extras(bytes(body[extras_at + 4 : payload_at]))
    if extras.feature_flags != flags & _EXTRAS_FLAGS:
        raise FormatError(
            f"flags {flags:#x} and extras differ: {FLAG_TYPED} goes with fields, float32 and uint8 arrays and parts, "
            f"{FLAG_PARTS} with parts, {FLAG_REVISED} with a revision, and none with anything else"
        )
    return extras


def swap_text(
    header: np.void, body: bytes | memoryview, donor_header: np.void, donor_body: bytes | memoryview
) -> tuple[np.void, bytes]:
    """Header and body of a record that keeps its picture and extras and takes another one's text.

    One of several parts keeps its texts, and gives none: they say something of its pictures, in turns.

    The header's ``crc32`` is still that of the record's own body. Extras and payload are copied unread.

    Raises:
        FormatError: ``corrupt_record`` where a body is too short for its masks.
    """
    if (header["flags"] | donor_header["flags"]) & FLAG_PARTS:
        return header.copy(), bytes(body)
    tokens_at, _, extras_at, _ = _places_of(header, body)
    text_from, _, text_to, _ = _places_of(donor_header, donor_body)
    text = donor_body[text_from:text_to]
    changed = header.copy()
    changed["text_length"] = donor_header["text_length"]
    changed["flags"] = header["flags"] & ~_TEXT_FLAGS | donor_header["flags"] & _TEXT_FLAGS
    return changed, b"".join((body[:tokens_at], text, body[extras_at:]))


def prefix_bytes(headers: NDArray[np.void]) -> NDArray[np.int64]:
    """``(N,)`` bytes of keep mask and token mask at the beginning of each body: what :func:`count_parts` needs.

    Args:
        headers: ``(N,)`` with the fields of :data:`HEADER_DTYPE`.
    """
    h, w, length = (np.asarray(headers[name], dtype=np.int64) for name in ("grid_h", "grid_w", "text_length"))
    return np.asarray((h * w + 7) // 8 + (length + 7) // 8, dtype=np.int64)


def count_parts(header: np.void, body_prefix: bytes | memoryview) -> tuple[int, int]:
    """Kept patches and kept tokens of a record, of whose body :func:`prefix_bytes` bytes are enough.

    Raises:
        FormatError: ``corrupt_record`` where the prefix is too short.
    """
    tokens_at = num_mask_bytes(int(header["grid_h"]) * int(header["grid_w"]))
    ids_at = tokens_at + num_mask_bytes(int(header["text_length"]))
    if ids_at > len(body_prefix):
        raise cut_short(body_prefix)
    return count_kept(bytes(body_prefix[:tokens_at])), count_kept(bytes(body_prefix[tokens_at:ids_at]))


def tokens_of(header: np.void, body_prefix: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the kept tokens and their places in the original text, ``(T,)`` each, of a body's first
    ``prefix_bytes + most_id_bytes`` bytes, or of all if it has fewer.

    Raises:
        FormatError: ``corrupt_record`` where they are too few.
    """
    length = int(header["text_length"])
    tokens_at = num_mask_bytes(int(header["grid_h"]) * int(header["grid_w"]))
    ids_at = tokens_at + num_mask_bytes(length)
    mask = np.frombuffer(body_prefix[tokens_at:ids_at], np.uint8)
    places = np.flatnonzero(np.unpackbits(mask, count=length))
    dtype = token_dtype(int(header["flags"]))
    found = body_prefix[ids_at : ids_at + dtype.itemsize * len(places)]
    if len(found) < dtype.itemsize * len(places):
        raise cut_short(body_prefix)
    return np.frombuffer(found, dtype).astype(np.int64), places


def most_id_bytes(headers: NDArray[np.void]) -> NDArray[np.int64]:
    """``(N,)`` bytes that the token ids of each take, if all of its text were kept."""
    wide = headers["flags"] & FLAG_WIDE_TOKENS != 0
    return np.asarray(np.where(wide, 4, 2) * headers["text_length"].astype(np.int64))


def _places_of(header: np.void, body: bytes | memoryview) -> tuple[int, int, int, int]:
    h, w, length, flags = (int(header[name]) for name in ("grid_h", "grid_w", "text_length", "flags"))
    found = places(h, w, length, flags, body)
    if found[-1] > len(body):
        raise cut_short(body)
    return found


def too_large_extras(num_bytes: int) -> FormatError:
    """The error of extras that are more than a record has."""
    return FormatError(f"extras of {num_bytes} bytes; at most {MAX_EXTRAS_BYTES} are taken")


def too_large(num_bytes: int) -> FormatError:
    """The error of a body that is more than is taken."""
    return FormatError(f"a record of {num_bytes} bytes; at most {MAX_BODY_BYTES} are taken")


def cut_short(body: bytes | memoryview) -> FormatError:
    """The error of a body that ends before its header says."""
    return FormatError(f"a body of {len(body)} bytes is cut short", code="corrupt_record")
