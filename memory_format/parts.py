"""What a record of several pictures and texts is made of, in the order in which a model reads them.

The record's header describes its first picture. Of the others, the extras say grid, layout and length of the payload,
and hold the keep masks; the payloads lie one behind the other. Texts are parts of the record's text, each with a role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_format.bitmask import bits_past, count_kept, num_mask_bytes
from memory_format.canvas import Layout
from memory_format.errors import FormatError
from memory_format.header import FLAG_IN_PLACE, FLAG_STRIP, bad_sides

MAX_PICTURES: Final = 64
MAX_PARTS: Final = 1024
ROLE_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")


class Further(NamedTuple):
    """A picture behind the first, coded by the same codec, of patches of the same size."""

    grid: tuple[int, int]
    layout_flags: int
    payload_bytes: int
    keep_mask_bytes: bytes


class Said(NamedTuple):
    """A text: the next so many tokens of the record's, kept or not."""

    role: str
    text_length: int


@dataclass(frozen=True, eq=False)
class Text:
    """What somebody says: the tokens that are kept of it."""

    role: str
    """Who says it: ``user``, ``assistant``, ``system``."""
    token_ids: NDArray[np.int64]
    """``(T,)``."""
    token_positions: NDArray[np.int64] | None = None
    """``(T,)``: their places in the text, ascending; None = 0..T-1."""
    text_length: int | None = None
    """Tokens of the whole text; None = T."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture's kept patches."""

    patches: NDArray[np.uint8]
    """``(K, P, P, 3)``, in row-major order of ``keep_mask``."""
    keep_mask: NDArray[np.bool_]
    """``(h, w)`` with exactly K cells set."""
    layout: Layout | None = None


PartHead: TypeAlias = Further | Said | None
"""None: the first picture, which the header describes."""


def further_of(parts: tuple[PartHead, ...]) -> list[Further]:
    """The pictures behind the first."""
    return [part for part in parts if isinstance(part, Further)]


def parts_json(parts: tuple[PartHead, ...]) -> list[list[int | str]]:
    """Parts as the extras list them: ``[]``, ``[h, w, flags, bytes]`` or ``[role, tokens]``. The masks lie behind."""
    listed: list[list[int | str]] = []
    for part in parts:
        if part is None:
            listed.append([])
        elif isinstance(part, Further):
            listed.append([*part.grid, part.layout_flags, part.payload_bytes])
        else:
            listed.append([part.role, part.text_length])
    return listed


def read_parts(listed: Any, data: bytes) -> tuple[tuple[PartHead, ...], int]:
    """Inverse of :func:`parts_json`, with the masks at the beginning of ``data``; and how many bytes those take.

    Raises:
        FormatError: they are no parts of a record.
    """
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_PARTS:
        raise FormatError(f"parts are a list of 1 to {MAX_PARTS}")
    found: list[PartHead] = []
    at = 0
    for item in listed:
        part = _part(item)
        if isinstance(part, Further):
            end = at + num_mask_bytes(part.grid[0] * part.grid[1])
            part = part._replace(keep_mask_bytes=data[at:end])
            _check_mask(part)
            at = end
        found.append(part)
    pictures = [part for part in found if not isinstance(part, Said)]
    if pictures.count(None) != 1 or pictures[0] is not None or len(pictures) > MAX_PICTURES:
        raise FormatError(f"parts have 1 to {MAX_PICTURES} pictures, the first of them []")
    return tuple(found), at


def _part(item: Any) -> PartHead:
    match item:
        case []:
            return None
        case [str(role), int(length)] if ROLE_PATTERN.fullmatch(role) and not isinstance(length, bool) and length >= 0:
            return Said(role, length)
        case [int(), int(), int(), int()] if not any(isinstance(number, bool) for number in item):
            h, w, flags, num_bytes = item
            if not (1 <= h <= 255 and 1 <= w <= 255):
                raise bad_sides((h, w), 1)
            if flags in (0, FLAG_IN_PLACE, FLAG_STRIP) and 1 <= num_bytes < 2**32:
                return Further((h, w), flags, num_bytes, b"")
    raise FormatError(f"a part is [], [h, w, layout flags, bytes] or [role, tokens], got {item!r:.100}")


def _check_mask(part: Further) -> None:
    h, w = part.grid
    mask = part.keep_mask_bytes
    if len(mask) < num_mask_bytes(h * w):
        raise FormatError("extras end inside the keep mask of a further picture")
    if count_kept(mask) == 0:
        raise FormatError("the keep mask of a further picture keeps no patch", code="mask_mismatch")
    if h * w & 7 and mask[-1] & (0xFF >> (h * w & 7)):
        raise bits_past(h * w)


def payload_spans(parts: tuple[PartHead, ...], num_bytes: int) -> Iterator[tuple[int, int]]:
    """Where each picture's payload begins and ends in those ``num_bytes`` of all of them.

    Raises:
        FormatError: the first one has no bytes.
    """
    further = further_of(parts)
    at = num_bytes - sum(picture.payload_bytes for picture in further)
    if at < 1:
        raise FormatError("the payloads of a record's pictures are longer than all of them", code="invalid_payload")
    yield 0, at
    for picture in further:
        yield at, at + picture.payload_bytes
        at += picture.payload_bytes


def in_order(
    parts: tuple[PartHead, ...],
    pictures: Sequence[Picture],
    token_ids: NDArray[np.int64],
    token_positions: NDArray[np.int64],
    text_length: int,
) -> tuple[Picture | Text, ...]:
    """A record's pictures, and its text taken apart, in the order of its parts.

    Args:
        parts: ``(None,)`` of a record that was not made of parts.
        token_ids, token_positions: ``(T,)``, of all texts.
    """
    if parts == (None,):
        text = Text("", token_ids, token_positions, text_length)
        return (pictures[0], text) if text_length else (pictures[0],)
    found: list[Picture | Text] = []
    start, shown = 0, iter(pictures)
    for part in parts:
        if isinstance(part, Said):
            a, b = np.searchsorted(token_positions, (start, start + part.text_length)).tolist()
            found.append(Text(part.role, token_ids[a:b], token_positions[a:b] - start, part.text_length))
            start += part.text_length
        else:
            found.append(next(shown))
    return tuple(found)
