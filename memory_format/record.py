"""The exemplar record: what is kept of one sample, and exactly how many bytes that is.

``charge`` = header bytes + body bytes: every byte that the segment holds for the record, nothing estimated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import checksum
from memory_format.arguments import whole
from memory_format.bitmask import BoolArray, check_mask_bytes, count_kept, mask_from_bytes
from memory_format.body import check_row, cut_short, places
from memory_format.canvas import ByteArray, Layout, canvas_grid, take_out
from memory_format.codecs import codec_by_number, codec_class
from memory_format.codecs.base import PatchCodec
from memory_format.errors import FormatError, at_index
from memory_format.extras import StoredArray, decode_extras
from memory_format.header import (
    FLAG_EXTRAS,
    FLAG_PARTS,
    FLAG_REVISED,
    FLAG_TYPED,
    FLAG_WIDE_TOKENS,
    HEADER_BYTES,
    HEADER_DTYPE,
    KNOWN_FLAGS,
    LAYOUT_FLAGS,
    HeaderRow,
    bad_sides,
    layout_of,
    newer_flags,
    token_dtype,
)
from memory_format.in_place import Dropped, to_image
from memory_format.parts import PartHead, Picture, Text, further_of, in_order, payload_spans
from memory_format.user_fields import FieldValue

_FEATURE_FLAGS: Final = FLAG_TYPED | FLAG_WIDE_TOKENS | FLAG_PARTS | FLAG_REVISED


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
    feature_flags: int = 0
    """Those flags that no other field says: ``FLAG_WIDE_TOKENS``, ``FLAG_TYPED``, ``FLAG_PARTS``, ``FLAG_REVISED``."""
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
        return np.frombuffer(self.token_ids_bytes, token_dtype(self.feature_flags)).astype(np.int64)

    @property
    def num_tokens(self) -> int:
        """Kept tokens, T."""
        return count_kept(self.token_mask_bytes)

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
        return LAYOUT_FLAGS[self.layout] | (FLAG_EXTRAS if self.extras else 0) | self.feature_flags

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

    @cached_property
    def part_heads(self) -> tuple[PartHead, ...]:
        """What the record is made of, without what is in it."""
        return decode_extras(self.extras).parts if self.feature_flags & FLAG_PARTS else (None,)

    @property
    def num_pictures(self) -> int:
        return 1 + len(further_of(self.part_heads))

    def picture(self, place: int) -> Record:
        """One of the pictures as a record of its own, without text and extras. The header's is 0.

        Raises:
            FormatError: there is none of that place.
        """
        whole("picture", place, 0, self.num_pictures - 1)
        if not self.feature_flags & FLAG_PARTS:
            return self
        start, end = list(payload_spans(self.part_heads, len(self.payload)))[place]
        nothing: dict[str, Any] = {"text_length": 0, "token_mask_bytes": b"", "token_ids_bytes": b"", "extras": b""}
        alone = replace(self, payload=self.payload[start:end], feature_flags=0, **nothing)
        if place == 0:
            return alone
        further = further_of(self.part_heads)[place - 1]
        layout, mask = layout_of(further.layout_flags), further.keep_mask_bytes
        return replace(alone, grid=further.grid, layout=layout, keep_mask_bytes=mask)

    def parts(self) -> tuple[Picture | Text, ...]:
        """Pictures and texts in the order in which a model reads them, as :func:`memory_format.make_record_of_parts`
        takes them.

        Of a record that was not made of parts: its picture, and its text if it has one, of no role.

        Raises:
            FormatError: a payload is damaged.
        """
        pictures = map(self.picture, range(self.num_pictures))
        shown = [Picture(picture.patches(), picture.keep_mask, picture.layout) for picture in pictures]
        return in_order(self.part_heads, shown, self.token_ids, self.token_positions, self.text_length)

    def patches(self) -> ByteArray:
        """Decode the kept patches: ``(K, P, P, 3)`` uint8, in the order of :attr:`keep_indices`. Of several pictures
        those of the first.

        Raises:
            FormatError: the payload is damaged or of another size than the mask says.
        """
        canvas = self.codec.read_checked(self.picture(0).payload, self.canvas_size)
        return take_out(canvas, self.keep_indices, self.patch_px, self.layout)

    def image(self, dropped: Dropped = "grey", *, picture: int = 0) -> ByteArray:
        """The picture with its kept patches in place and the dropped ones flat.

        Args:
            picture: which of several.
            dropped: ``grey`` or ``black`` give ``(h*P, w*P, 3)`` uint8, RGB; ``transparent`` gives ``(h*P, w*P, 4)``,
                RGBA.

        Raises:
            FormatError: the payload is damaged, or the picture has more than 16 million pixels, or there is none of
                that place.
        """
        shown = self.picture(picture)
        return to_image(shown.patches(), shown.keep_indices, shown.grid, dropped)

    def user_json(self) -> dict[str, Any]:
        """The user's own JSON, ``{}`` where there is none."""
        return decode_extras(self.extras).user

    def fields(self) -> dict[str, FieldValue]:
        """The user's fields, by which a service filters and groups."""
        return decode_extras(self.extras).fields

    def arrays(self) -> dict[str, StoredArray]:
        """The user's arrays by name."""
        return decode_extras(self.extras).arrays

    @property
    def revision(self) -> int:
        """How often arrays of it were replaced since it was pushed."""
        revised = self.feature_flags & FLAG_REVISED and decode_extras(self.extras).revision
        return revised.number if revised else 0


def as_pushed(record: Record) -> Record:
    """A record as one that nobody has pushed yet: its arrays are what they are, and were never replaced."""
    if record.feature_flags & FLAG_REVISED:
        extras = replace(decode_extras(record.extras), revision=None)
        others = record.feature_flags & FLAG_WIDE_TOKENS
        record = replace(record, extras=extras.encode(), feature_flags=others | extras.feature_flags)
    return record


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
        raise bad_layout(record.layout)
    check_mask_bytes(record.keep_mask_bytes, h * w)
    check_mask_bytes(record.token_mask_bytes, length)
    if record.feature_flags & ~_FEATURE_FLAGS:
        raise FormatError(f"feature_flags are {_FEATURE_FLAGS:#x} at most, got {record.feature_flags:#x}")
    width = token_dtype(record.feature_flags).itemsize
    if len(record.token_ids_bytes) != width * record.num_tokens:
        raise FormatError(
            f"the token mask keeps {record.num_tokens} tokens, token_ids holds {len(record.token_ids_bytes) / width:g}",
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
        feature_flags=flags & _FEATURE_FLAGS,
        exemplar_id=exemplar_id,
    )


def bad_layout(layout: object) -> FormatError:
    """The error of a layout that is none."""
    return FormatError(f"layout must be one of {', '.join(LAYOUT_FLAGS)}, got {layout!r:.100}")
