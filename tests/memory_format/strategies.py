"""Hypothesis strategies for records, and what several tests do with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from memory_format import (
    AVIF,
    JPEG,
    PatchCodec,
    Picture,
    RawZstd,
    Record,
    Text,
    WebP,
    WebPLossless,
    make_record,
    make_record_of_parts,
)
from memory_format.record import headers_of
from memory_format.wire import frame_batch

LOSSLESS: tuple[PatchCodec, ...] = (RawZstd(), WebPLossless())
ALL_CODECS: tuple[PatchCodec, ...] = (*LOSSLESS, WebP(), AVIF(speed=8), JPEG(), JPEG(subsampling="4:2:0"))


def header_of(record: Record) -> np.void:
    """A record's header, as outside of segments."""
    header: np.void = headers_of([record], [record.crc32])[0]
    return header


def write_batch(headers: np.ndarray, learner_ids: Sequence[str], body: bytes, lengths: Sequence[int]) -> memoryview:
    """Records -> one Arrow IPC stream: :func:`frame_batch`, filled with all bodies end to end."""
    stream, start = frame_batch(headers, learner_ids, lengths).stream()
    stream[start : start + sum(lengths)] = body
    return stream


names = st.text("abcXYZ019._-", min_size=1, max_size=64)
plain_json = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text("ab", max_size=2), child, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@st.composite
def keep_masks(draw: st.DrawFn, max_side: int = 9) -> np.ndarray:
    """``(h, w)`` bool with at least one cell kept."""
    h, w = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    bits = draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))
    bits[draw(st.integers(0, h * w - 1))] = True
    return np.array(bits).reshape(h, w)


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(shape: tuple[int, int], seed: int) -> np.ndarray:
    """``(H, W, 3)``: a few slow waves, the kind of content that lossy image codecs are made for."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / 64.0
    image = np.zeros((*shape, 3))
    for channel in range(3):
        a, b, phase = rng.uniform(-1, 1, 3)
        image[..., channel] = 128 + 80 * np.sin(a * x + b * y + 6.28 * phase)
    return image.round().astype(np.uint8)


named_arrays = (
    st.lists(st.floats(width=16), max_size=5).map(lambda values: np.array(values, np.float16))
    | st.lists(st.floats(width=32), max_size=5).map(lambda values: np.array(values, np.float32))
    | st.binary(max_size=5).map(lambda data: np.frombuffer(data, np.uint8))
)


values = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
)


@st.composite
def records(draw: st.DrawFn, codecs: tuple[PatchCodec, ...] = ALL_CODECS) -> tuple[Record, dict[str, Any]]:
    """A record, and what it was made of."""
    keep_mask = draw(keep_masks())
    patch_px = draw(st.integers(1, 12))
    patches = noise((int(keep_mask.sum()), patch_px, patch_px, 3), draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(0, 40))
    positions = sorted(draw(st.sets(st.integers(0, length - 1), max_size=length))) if length else []
    highest = draw(st.sampled_from([0xFFFF, 0xFFFF, 152_000, 2**32 - 1]))
    token_ids = draw(st.lists(st.integers(0, highest), min_size=len(positions), max_size=len(positions)))
    arrays = draw(st.dictionaries(st.text("xyz", min_size=1, max_size=3), named_arrays, max_size=2))
    made_of: dict[str, Any] = {
        "class_id": draw(st.integers(0, 2**32 - 1)),
        "patches": patches,
        "keep_mask": keep_mask,
        "codec": draw(st.sampled_from(codecs)),
        "token_ids": np.array(token_ids, dtype=np.int64),
        "token_positions": np.array(positions, dtype=np.int64),
        "text_length": length,
        "phase": draw(st.integers(0, 2**16 - 1)),
        "learner_id": draw(names),
        "score": draw(st.floats(width=32, allow_nan=False, allow_infinity=False)),
        "rank": draw(st.integers(0, 2**32 - 1)),
        "layout": draw(st.sampled_from(["mosaic", "in_place", "strip", None])),
        "user_json": draw(plain_json),
        "arrays": arrays,
        "fields": draw(
            st.dictionaries(st.from_regex("[A-Za-z_][A-Za-z0-9_]{0,31}", fullmatch=True), values, max_size=3)
        ),
        "array_dtypes": {name: str(values.dtype) for name, values in arrays.items() if values.dtype != np.float16},
    }
    return make_record(**made_of), made_of


@st.composite
def records_of_parts(
    draw: st.DrawFn, codecs: tuple[PatchCodec, ...] = ALL_CODECS
) -> tuple[Record, list[Picture | Text]]:
    """A record of several pictures and texts, and those."""
    patch_px = draw(st.integers(1, 12))
    parts: list[Picture | Text] = []
    for is_picture in [True, *draw(st.lists(st.booleans(), max_size=5))]:
        if is_picture:
            keep_mask = draw(keep_masks(5))
            shape = (int(keep_mask.sum()), patch_px, patch_px, 3)
            parts.append(Picture(noise(shape, draw(st.integers(0, 2**32 - 1))), keep_mask))
        else:
            length = draw(st.integers(0, 12))
            positions = sorted(draw(st.sets(st.integers(0, length - 1)))) if length else []
            ids = [draw(st.sampled_from([3, 0xFFFF, 151_999])) for _ in positions]
            places = np.array(positions, dtype=np.int64)
            parts.append(Text(draw(names)[:32], np.array(ids, dtype=np.int64), places, length))
    parts = draw(st.permutations(parts))
    made: dict[str, Any] = {"class_id": draw(st.integers(0, 9)), "codec": draw(st.sampled_from(codecs))}
    arrays: dict[str, Any] = {"arrays": {"a": draw(named_arrays)}, "array_dtypes": {"a": "float32"}}
    return make_record_of_parts(parts, **made, **arrays), parts


mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "set", "cut", "insert", "splice", "drop"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def mutate(data: bytes, steps: list[tuple[str, float, float, bytes]]) -> bytes:
    """``data`` damaged: places are fractions of its length, so that small examples shrink well."""
    out = bytearray(data)
    for kind, where, where_to, new in steps:
        if not out:
            break
        a, b = sorted((int(where * len(out)), int(where_to * len(out))))
        if kind == "flip":
            out[a] ^= 1 << (new[0] % 8)
        elif kind == "set":
            out[a : a + len(new)] = new
        elif kind == "cut":
            del out[a:]
        elif kind == "insert":
            out[a:a] = new
        elif kind == "splice":
            out[b : b + 64] = out[a : a + 64]
        else:
            del out[a : min(b, a + 64)]
    return bytes(out)
