"""The exemplar record: what is kept of one sample, and exactly how many bytes that is.

``charge`` = header bytes + body bytes: every byte that the segment holds for the record, nothing estimated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format import checksum
from memory_format.arguments import flat_whole, is_number, is_one_of, pixels, whole
from memory_format.bitmask import BoolArray, check_mask_bytes, count_kept, mask_from_bytes, mask_to_bytes
from memory_format.body import check_row, cut_short, places
from memory_format.canvas import ByteArray, Layout, canvas_grid, default_layout, kept_pixels, lay_out, take_out
from memory_format.codecs import codec_by_number, codec_class
from memory_format.codecs.base import PatchCodec
from memory_format.codecs.lossy import LossyCodec
from memory_format.codecs.webp import WebP
from memory_format.errors import FormatError, at_index
from memory_format.extras import decode_extras, encode_extras
from memory_format.header import (
    FLAG_EXTRAS,
    HEADER_BYTES,
    HEADER_DTYPE,
    KNOWN_FLAGS,
    LAYOUT_FLAGS,
    MAX_SCORE,
    HeaderRow,
    bad_sides,
    layout_of,
    newer_flags,
)
from memory_format.in_place import Dropped, to_image


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
        return np.flatnonzero(self.keep_mask)

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
        return np.flatnonzero(mask_from_bytes(self.token_mask_bytes, self.text_length))

    @property
    def _parts(self) -> tuple[bytes, ...]:
        extras = len(self.extras).to_bytes(4, "little") + self.extras if self.extras else b""
        return self.keep_mask_bytes, self.token_mask_bytes, self.token_ids_bytes, extras, self.payload

    @property
    def body(self) -> bytes:
        """What is stored beside the header."""
        return b"".join(self._parts)

    @property
    def body_bytes(self) -> int:
        """Length of :attr:`body` without making it."""
        return sum(map(len, self._parts))

    @property
    def charge(self) -> int:
        """Bytes that the budget counts for this record: all that a segment stores for it."""
        return HEADER_BYTES + self.body_bytes

    @property
    def flags(self) -> int:
        return LAYOUT_FLAGS[self.layout] | (FLAG_EXTRAS if self.extras else 0)

    @property
    def crc32(self) -> int:
        return checksum.crc32(self.body)

    @property
    def codec(self) -> type[PatchCodec]:
        return codec_class(self.codec_id)

    @property
    def canvas_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels of the coded image."""
        rows, columns = canvas_grid(self.num_kept, self.grid, self.layout, self.patch_px)
        return rows * self.patch_px, columns * self.patch_px

    def patches(self) -> ByteArray:
        """Decode the kept patches: ``(K, P, P, 3)`` uint8, in the order of :attr:`keep_indices`.

        Raises:
            FormatError: the payload is damaged or of another size than the mask says.
        """
        canvas = self.codec.read_checked(self.payload, self.canvas_size)
        return take_out(canvas, self.keep_indices, self.patch_px, self.layout)

    def image(self, dropped: Dropped = "grey") -> ByteArray:
        """The picture with its kept patches in place and the dropped ones flat.

        Args:
            dropped: ``grey`` or ``black`` give ``(h*P, w*P, 3)`` uint8, RGB; ``transparent`` gives ``(h*P, w*P, 4)``,
                RGBA.

        Raises:
            FormatError: the payload is damaged, or the picture has more than 16 million pixels.
        """
        return to_image(self.patches(), self.keep_indices, self.grid, dropped)

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
    codec: PatchCodec | None = None,
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
        codec: how the patches are coded; default ``WebP()``.
        token_ids: ``(T,)`` kept token ids, 0..65535.
        token_positions: ``(T,)`` their places in the text, ascending; default 0..T-1.
        text_length: tokens of the whole text; default T.
        score: cosine to the class mean, for ranking and eviction.
        rank: place in the class's selection order, 0 = first to keep.
        layout: default :func:`~memory_format.canvas.default_layout`.
        user_json: small JSON object of the user's.
        arrays: named arrays, stored as float16 (logits, features).

    Raises:
        FormatError: anything of the above is not so; the message says what and what would be right.
    """
    if codec is None:
        codec = WebP()
    elif not isinstance(codec, PatchCodec):
        raise FormatError(f"codec must be one of memory_format.CODECS, made, as WebP(quality=30); got {codec!r:.100}")
    keep_mask = _mask_of(keep_mask, patches)
    ids, token_mask = _text_of(token_ids, token_positions, text_length)
    if not is_number(score, -MAX_SCORE, MAX_SCORE):
        raise FormatError(f"score must be a finite number, got {score!r:.100}")
    if not isinstance(learner_id, str):
        raise FormatError(f"learner_id must be text, got {learner_id!r:.100}")
    if layout is not None and not is_one_of(layout, tuple(LAYOUT_FLAGS)):
        raise _bad_layout(layout)
    h, w = keep_mask.shape
    record = Record(
        class_id=whole("class_id", class_id, 0, 2**32 - 1),
        phase=whole("phase", phase, 0, 2**16 - 1),
        learner_id=learner_id,
        # Rounded here, so that a record equals itself after a round trip through its float32 column.
        score=float(np.float32(score)),
        rank=whole("rank", rank, 0, 2**32 - 1),
        grid=(h, w),
        patch_px=patches.shape[1],
        keep_mask_bytes=mask_to_bytes(keep_mask),
        codec_id=codec.codec_id,
        layout=default_layout(keep_mask) if layout is None else layout,
        payload=b"",
        text_length=len(token_mask),
        token_mask_bytes=mask_to_bytes(token_mask),
        token_ids_bytes=ids.astype("<u2").tobytes(),
        extras=encode_extras(user_json, arrays),
    )
    canvas = lay_out(patches, keep_mask, record.grid, record.layout)
    if isinstance(codec, LossyCodec):
        kept = kept_pixels(keep_mask, record.patch_px, record.layout)
        payload = codec.encode_canvas(canvas, kept, other_bytes=record.charge)
    else:
        payload = codec.encode(canvas)
    record = replace(record, payload=payload)
    check_record(record)
    return record


def _mask_of(given: Any, patches: Any) -> BoolArray:
    """A mask that keeps as many cells as there are patches."""
    try:
        keep_mask = np.asarray(given, dtype=bool)
    except (TypeError, ValueError):
        raise FormatError(f"keep_mask must be (h, w) bool, got {given!r:.100}", code="mask_mismatch") from None
    if keep_mask.ndim != 2:
        raise FormatError(f"keep_mask must be (h, w), got shape {keep_mask.shape}", code="mask_mismatch")
    pixels("patches", patches, "(K, P, P, 3)")
    if patches.shape[1] != patches.shape[2]:
        raise FormatError(f"patches must be (K, P, P, 3) uint8, got {patches.shape} {patches.dtype}")
    kept = int(keep_mask.sum())
    if kept != len(patches) or kept == 0:
        raise FormatError(
            f"keep_mask keeps {kept} cells but there are {len(patches)} patches; at least one is needed",
            code="mask_mismatch",
        )
    return keep_mask


def _text_of(token_ids: Any, token_positions: Any, text_length: Any) -> tuple[NDArray[np.int64], BoolArray]:
    """Kept token ids, and the mask of the text that keeps them."""
    ids = flat_whole("token_ids", () if token_ids is None else token_ids)
    positions = np.arange(len(ids)) if token_positions is None else flat_whole("token_positions", token_positions)
    length = whole("text_length", len(ids) if text_length is None else text_length, 0, 2**16 - 1)
    if len(positions) != len(ids):
        raise FormatError(f"{len(ids)} token_ids but {len(positions)} token_positions", code="mask_mismatch")
    if ids.size and (ids.min() < 0 or ids.max() > 0xFFFF):
        raise FormatError("token ids are stored as uint16: they must lie in 0..65535")
    if positions.size and (positions[0] < 0 or positions[-1] >= length or (np.diff(positions) <= 0).any()):
        raise FormatError(f"token_positions must ascend within [0, {length})", code="mask_mismatch")
    token_mask = np.zeros(length, dtype=bool)
    token_mask[positions] = True
    return ids, token_mask


def check_record(record: Record) -> None:
    """Check everything about a record that does not need its pixels decoded.

    Raises:
        FormatError: with a code that says which part is wrong.
    """
    if not isinstance(record, Record):
        raise FormatError(f"records come from make_record, got {record!r:.100}")
    check_row(_row_of(record, crc32=0), record.learner_id, record.body, set())


def headers_of(records: Iterable[Record], crcs: Iterable[int]) -> NDArray[np.void]:
    """Headers of records, ``(N,)`` of ``HEADER_DTYPE``, given the CRC-32 of their bodies.

    Raises:
        FormatError: a record's fields do not fit a header, or contradict each other; with the record's ``index``.
    """
    rows = []
    for index, (record, crc32) in enumerate(zip(records, crcs, strict=True)):
        try:
            rows.append(_row_of(record, crc32))
        except FormatError as error:
            raise at_index(error, index) from None
    with np.errstate(over="ignore"):  # check_row refuses what overflows
        return np.array(rows, dtype=HEADER_DTYPE)


def _row_of(record: Record, crc32: int) -> HeaderRow:
    """Refuses what header and body cannot say, or would say otherwise: the body has no lengths of its own."""
    h, w = record.grid
    length = record.text_length
    if not (1 <= h <= 255 and 1 <= w <= 255 and 1 <= record.patch_px <= 255):
        raise bad_sides(record.grid, record.patch_px)
    if not (0 <= record.class_id < 2**32 and 0 <= record.phase < 2**16 and 0 <= record.rank < 2**32):
        raise FormatError(
            f"class_id {record.class_id}, phase {record.phase} and rank {record.rank} must be non-negative, "
            "and below 2**32, 2**16 and 2**32"
        )
    if not 0 <= record.exemplar_id < 2**64:
        raise FormatError(f"exemplar_id must lie in 0..2**64-1, got {record.exemplar_id}")
    if not 0 <= length < 2**16:
        raise FormatError(f"text_length must lie in 0..65535, got {length}")
    if record.layout not in LAYOUT_FLAGS:
        raise _bad_layout(record.layout)
    check_mask_bytes(record.keep_mask_bytes, h * w)
    check_mask_bytes(record.token_mask_bytes, length)
    kept_tokens = count_kept(record.token_mask_bytes)
    if len(record.token_ids_bytes) != 2 * kept_tokens:
        raise FormatError(
            f"the token mask keeps {kept_tokens} tokens, token_ids holds {len(record.token_ids_bytes) / 2:g}",
            code="mask_mismatch",
        )
    return (
        record.exemplar_id,
        record.class_id,
        record.rank,
        record.score,
        0,
        crc32,
        record.phase,
        0,
        length,
        h,
        w,
        record.patch_px,
        record.codec.number,
        record.flags,
    )


def split_row(row: HeaderRow, body: bytes | memoryview, learner_id: str) -> Record:
    """Header and body, as a segment or a batch holds them -> record, with copies of the body's parts.

    Raises:
        FormatError: the body is too short for what the header says, or its flags are of a newer version.
    """
    exemplar_id, class_id, rank, score, _, _, phase, _, length, h, w, patch_px, codec_number, flags = row
    if flags & ~KNOWN_FLAGS:
        raise newer_flags(flags)
    tokens_at, ids_at, extras_at, payload_at = places(h, w, length, flags, body)
    if payload_at > len(body):
        raise cut_short(body)
    small = bytes(body[:payload_at])  # slices of bytes cost a third of a view's
    return Record(
        class_id=class_id,
        phase=phase,
        learner_id=learner_id,
        score=score,
        rank=rank,
        grid=(h, w),
        patch_px=patch_px,
        keep_mask_bytes=small[:tokens_at],
        codec_id=codec_by_number(codec_number).codec_id,
        layout=layout_of(flags),
        payload=bytes(body[payload_at:]),
        text_length=length,
        token_mask_bytes=small[tokens_at:ids_at],
        token_ids_bytes=small[ids_at:extras_at],
        extras=small[extras_at + 4 :],
        exemplar_id=exemplar_id,
    )


def _bad_layout(layout: object) -> FormatError:
    return FormatError(f"layout must be one of {', '.join(LAYOUT_FLAGS)}, got {layout!r:.100}")
