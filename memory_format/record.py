"""The exemplar record: what is kept of one sample, and exactly how many bytes that is.

A record is a fixed header (one row of small columns, :data:`HEADER_DTYPE`) and a *body*: one contiguous byte
string, read with one ``pread``::

    keep bitmask | token bitmask | token ids (uint16 LE) | [extras length (uint32 LE) | extras] | payload

``charge`` = header bytes + body bytes: every byte that the segment holds for the record, nothing estimated.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format.codecs import MAX_SIDE_PX, PatchCodec, codec_by_number, codec_class
from memory_format.errors import FormatError
from memory_format.extras import decode_extras, encode_extras
from memory_format.masks import (
    BoolArray,
    ByteArray,
    Layout,
    canvas_grid,
    count_kept,
    lay_out,
    mask_from_bytes,
    mask_to_bytes,
    mask_to_indices,
    num_mask_bytes,
    take_out,
)

HEADER_DTYPE = np.dtype(
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
"""The fixed part of a record, as numbers. ``offset`` is the body's place in its segment, ``learner`` an index
into the segment's list of learner ids."""

HEADER_BYTES = HEADER_DTYPE.itemsize

FLAG_IN_PLACE = 1
FLAG_EXTRAS = 2
KNOWN_FLAGS = FLAG_IN_PLACE | FLAG_EXTRAS

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_EXTRAS_BYTES = 1024 * 1024
LEARNER_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Record:
    """One exemplar in its serialised form.

    Build one with :func:`make_record`; it checks what this class takes on trust. Bytes fields are stored as
    they travel, so that a record passes through the service without being decoded.
    """

    class_id: int
    phase: int
    learner_id: str
    score: float
    rank: int
    grid: tuple[int, int]
    patch_px: int
    keep_mask_bytes: bytes
    codec_id: str
    layout: Layout
    payload: bytes
    text_length: int = 0
    token_mask_bytes: bytes = b""
    token_ids_bytes: bytes = b""
    extras: bytes = b""
    exemplar_id: int = 0
    """Given by the service at push, unique in its buffer, never used again; 0 = not pushed yet."""

    @cached_property
    def keep_mask(self) -> BoolArray:
        """``(h, w)`` bool, True = kept."""
        return mask_from_bytes(self.keep_mask_bytes, self.grid[0] * self.grid[1]).reshape(self.grid)

    @cached_property
    def keep_indices(self) -> NDArray[np.int64]:
        """Row-major places of the kept patches, ``(K,)``."""
        return mask_to_indices(self.keep_mask)

    @property
    def num_kept(self) -> int:
        """Kept patches, K, without unpacking the mask."""
        return count_kept(self.keep_mask_bytes)

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """Kept token ids, ``(T,)``."""
        return np.frombuffer(self.token_ids_bytes, dtype="<u2").astype(np.int64)

    @property
    def token_positions(self) -> NDArray[np.int64]:
        """Places of the kept tokens in the original text, ``(T,)``, ascending."""
        return mask_to_indices(mask_from_bytes(self.token_mask_bytes, self.text_length))

    @property
    def body(self) -> bytes:
        extras = len(self.extras).to_bytes(4, "little") + self.extras if self.extras else b""
        return b"".join((self.keep_mask_bytes, self.token_mask_bytes, self.token_ids_bytes, extras, self.payload))

    @property
    def body_bytes(self) -> int:
        """Length of :attr:`body` without making it."""
        extras = 4 + len(self.extras) if self.extras else 0
        small = len(self.keep_mask_bytes) + len(self.token_mask_bytes) + len(self.token_ids_bytes)
        return small + extras + len(self.payload)

    @property
    def charge(self) -> int:
        """Bytes that the budget counts for this record: all that a segment stores for it."""
        return HEADER_BYTES + self.body_bytes

    @property
    def flags(self) -> int:
        return (FLAG_IN_PLACE if self.layout == "in_place" else 0) | (FLAG_EXTRAS if self.extras else 0)

    @property
    def crc32(self) -> int:
        return zlib.crc32(self.body)

    @property
    def codec(self) -> type[PatchCodec]:
        return codec_class(self.codec_id)

    @property
    def canvas_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels of the coded image."""
        rows, columns = canvas_grid(self.num_kept, self.grid, self.layout)
        return rows * self.patch_px, columns * self.patch_px

    def patches(self) -> ByteArray:
        """Decode the kept patches: ``(K, P, P, 3)`` uint8, in the order of :attr:`keep_indices`.

        Raises:
            FormatError: the payload is damaged or of another size than the mask says.
        """
        canvas = self.codec.read_checked(self.payload, self.canvas_size)
        return take_out(canvas, self.keep_mask, self.patch_px, self.layout)

    def user_json(self) -> dict[str, Any]:
        """The user's own JSON, ``{}`` where there is none."""
        return decode_extras(self.extras)[0]

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """The user's float16 arrays by name."""
        return decode_extras(self.extras)[1]


def make_record(
    *,
    class_id: int,
    patches: ByteArray,
    keep_mask: BoolArray,
    codec: PatchCodec,
    token_ids: NDArray[np.integer] | None = None,
    token_positions: NDArray[np.integer] | None = None,
    text_length: int | None = None,
    phase: int = 0,
    learner_id: str = "default",
    score: float = 0.0,
    rank: int = 0,
    layout: Layout | None = None,
    user_json: dict[str, Any] | None = None,
    arrays: dict[str, NDArray[Any]] | None = None,
) -> Record:
    """Encode one exemplar.

    Args:
        patches: ``(K, P, P, 3)`` uint8, the kept patches in row-major order of ``keep_mask``.
        keep_mask: ``(h, w)`` bool with exactly K cells set.
        codec: how the patches are coded.
        token_ids: ``(T,)`` kept token ids, 0..65535.
        token_positions: ``(T,)`` their places in the text, ascending; default 0..T-1.
        text_length: tokens of the whole text; default T.
        score: cosine to the class mean, for ranking and eviction.
        rank: place in the class's selection order, 0 = first to keep.
        layout: default the codec's own.
        user_json: small JSON object of the user's.
        arrays: named arrays, stored as float16 (logits, features).

    Raises:
        FormatError: anything of the above is not so; the message says what and what would be right.
    """
    keep_mask = np.asarray(keep_mask, dtype=bool)
    if keep_mask.ndim != 2:
        raise FormatError(f"keep_mask must be (h, w), got shape {keep_mask.shape}", code="mask_mismatch")
    if patches.ndim != 4 or patches.shape[1] != patches.shape[2] or patches.shape[3] != 3 or patches.dtype != np.uint8:
        raise FormatError(f"patches must be (K, P, P, 3) uint8, got {patches.shape} {patches.dtype}")
    kept = int(keep_mask.sum())
    if kept != len(patches) or kept == 0:
        raise FormatError(
            f"keep_mask keeps {kept} cells but there are {len(patches)} patches; at least one is needed",
            code="mask_mismatch",
        )
    ids = np.zeros(0, dtype=np.int64) if token_ids is None else np.asarray(token_ids, dtype=np.int64)
    positions = np.arange(len(ids)) if token_positions is None else np.asarray(token_positions, dtype=np.int64)
    length = len(ids) if text_length is None else text_length
    if not 0 <= length < 2**16:
        raise FormatError(f"text_length must lie in 0..65535, got {length}")
    if len(positions) != len(ids):
        raise FormatError(f"{len(ids)} token_ids but {len(positions)} token_positions", code="mask_mismatch")
    if ids.size and (ids.min() < 0 or ids.max() > 0xFFFF):
        raise FormatError("token ids are stored as uint16: they must lie in 0..65535")
    if positions.size and (positions[0] < 0 or positions[-1] >= length or (np.diff(positions) <= 0).any()):
        raise FormatError(f"token_positions must ascend within [0, {length})", code="mask_mismatch")
    token_mask = np.zeros(length, dtype=bool)
    token_mask[positions] = True
    with np.errstate(over="ignore"):  # check_record refuses what overflows
        # Rounded here, so that a record equals itself after a round trip through its float32 column.
        rounded_score = float(np.float32(score))
    h, w = keep_mask.shape
    used_layout: Layout = codec.layout if layout is None else layout
    record = Record(
        class_id=class_id,
        phase=phase,
        learner_id=learner_id,
        score=rounded_score,
        rank=rank,
        grid=(h, w),
        patch_px=patches.shape[1],
        keep_mask_bytes=mask_to_bytes(keep_mask),
        codec_id=codec.codec_id,
        layout=used_layout,
        payload=codec.encode(lay_out(patches, keep_mask, (h, w), used_layout)),
        text_length=length,
        token_mask_bytes=mask_to_bytes(token_mask),
        token_ids_bytes=ids.astype("<u2").tobytes(),
        extras=encode_extras(user_json, arrays),
    )
    check_record(record)
    return record


def check_record(record: Record) -> None:
    """Check everything about a record that does not need its pixels decoded.

    Raises:
        FormatError: with a code that says which part is wrong.
    """
    h, w = record.grid
    if not (1 <= h <= 255 and 1 <= w <= 255 and 1 <= record.patch_px <= 255):
        raise FormatError(f"grid sides and patch_px must lie in 1..255, got {record.grid} and {record.patch_px}")
    if not (0 <= record.class_id < 2**32 and 0 <= record.phase < 2**16 and 0 <= record.rank < 2**32):
        raise FormatError(
            f"class_id {record.class_id}, phase {record.phase} and rank {record.rank} must be non-negative, "
            "and below 2**32, 2**16 and 2**32"
        )
    if not math.isfinite(record.score):
        raise FormatError(f"score must be a finite number, got {record.score}")
    if not LEARNER_ID_PATTERN.fullmatch(record.learner_id):
        raise FormatError(f"learner_id must be 1..64 of A-Z a-z 0-9 . _ -, got {record.learner_id!r}")
    if not 0 <= record.text_length < 2**16:
        raise FormatError(f"text_length must lie in 0..65535, got {record.text_length}")
    if record.layout not in ("mosaic", "in_place"):
        raise FormatError(f"layout must be 'mosaic' or 'in_place', got {record.layout!r}")
    # Not through record.keep_mask: that is kept with the record, and a bool is eight times its bit.
    mask_from_bytes(record.keep_mask_bytes, h * w)
    if record.num_kept == 0:
        raise FormatError("the keep mask keeps no patch", code="mask_mismatch")
    mask_from_bytes(record.token_mask_bytes, record.text_length)
    kept_tokens = count_kept(record.token_mask_bytes)
    if len(record.token_ids_bytes) != 2 * kept_tokens:
        raise FormatError(
            f"the token mask keeps {kept_tokens} tokens, token_ids holds {len(record.token_ids_bytes) / 2:g}",
            code="mask_mismatch",
        )
    if len(record.extras) > MAX_EXTRAS_BYTES:
        raise FormatError(f"extras of {len(record.extras)} bytes; at most {MAX_EXTRAS_BYTES} are taken")
    if record.extras:
        decode_extras(record.extras)
    if record.body_bytes > MAX_BODY_BYTES:
        raise FormatError(f"a record of {record.body_bytes} bytes; at most {MAX_BODY_BYTES} are taken")
    height, width = record.canvas_size
    if max(height, width) > MAX_SIDE_PX:
        raise FormatError(f"a coded image of {height}x{width} px; sides are at most {MAX_SIDE_PX}")
    record.codec.check_size(record.payload, (height, width))


def split_body(header: np.void, body: bytes, learner_id: str) -> Record:
    """Header row and body, as a segment holds them -> record.

    Args:
        header: one row of :data:`HEADER_DTYPE`.
        body: the record's bytes.
        learner_id: the name behind ``header["learner"]``.

    Raises:
        FormatError: the body is too short for what the header says, or its flags are of a newer version.
    """
    flags = int(header["flags"])
    if flags & ~KNOWN_FLAGS:
        raise FormatError(f"record flags {flags:#x} were written by a newer version")
    h, w, length = int(header["grid_h"]), int(header["grid_w"]), int(header["text_length"])
    tokens_at = num_mask_bytes(h * w)
    ids_at = tokens_at + num_mask_bytes(length)
    token_mask_bytes = body[tokens_at:ids_at]
    extras_at = ids_at + 2 * count_kept(token_mask_bytes)
    payload_at, extras = extras_at, b""
    if flags & FLAG_EXTRAS:
        payload_at = extras_at + 4 + int.from_bytes(body[extras_at : extras_at + 4], "little")
        extras = body[extras_at + 4 : payload_at]
    if payload_at > len(body):
        raise FormatError(f"a body of {len(body)} bytes is cut short", code="corrupt_record")
    return Record(
        class_id=int(header["class_id"]),
        phase=int(header["phase"]),
        learner_id=learner_id,
        score=float(header["score"]),
        rank=int(header["rank"]),
        grid=(h, w),
        patch_px=int(header["patch_px"]),
        keep_mask_bytes=body[:tokens_at],
        codec_id=codec_by_number(int(header["codec"])).codec_id,
        layout="in_place" if flags & FLAG_IN_PLACE else "mosaic",
        payload=body[payload_at:],
        text_length=length,
        token_mask_bytes=token_mask_bytes,
        token_ids_bytes=body[ids_at:extras_at],
        extras=extras,
        exemplar_id=int(header["exemplar_id"]),
    )
