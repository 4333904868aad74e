"""Samples -> records: of one picture and its text, or of several of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from memory_format.arguments import flat_whole, is_number, is_one_of, pixels, whole
from memory_format.bitmask import BoolArray, mask_to_bytes
from memory_format.canvas import ByteArray, Layout, default_layout, kept_pixels, lay_out
from memory_format.codecs.base import PatchCodec
from memory_format.codecs.lossy import LossyCodec
from memory_format.codecs.webp import WebP
from memory_format.errors import FormatError
from memory_format.extras import ArrayDtype, decode_extras, make_extras
from memory_format.header import FLAG_WIDE_TOKENS, LAYOUT_FLAGS, MAX_SCORE, token_dtype
from memory_format.parts import ROLE_PATTERN, Further, PartHead, Picture, Said, Text
from memory_format.quality import TargetBytes
from memory_format.record import Record, bad_layout, check_record
from memory_format.user_fields import FieldValue


class RecordFields(TypedDict, total=False):
    """What any record can have beside pictures, texts and JSON."""

    phase: int
    learner_id: str
    score: float
    rank: int
    arrays: dict[str, NDArray[Any]] | None
    array_dtypes: Mapping[str, ArrayDtype] | None
    fields: Mapping[str, FieldValue] | None


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
    array_dtypes: Mapping[str, ArrayDtype] | None = None,
    fields: Mapping[str, FieldValue] | None = None,
) -> Record:
    """Encode one exemplar.

    Args:
        patches: ``(K, P, P, 3)`` uint8, the kept patches in row-major order of ``keep_mask``.
        keep_mask: ``(h, w)`` bool with exactly K cells set.
        codec: how the patches are coded; default ``WebP()``.
        token_ids: ``(T,)`` kept token ids, below 2**32. They take two bytes each, or four where one is over 65535.
        token_positions: ``(T,)`` their places in the text, ascending; default 0..T-1.
        text_length: tokens of the whole text; default T.
        score: cosine to the class mean, for ranking and eviction.
        rank: place in the class's selection order, 0 = first to keep.
        layout: default :func:`~memory_format.canvas.default_layout`.
        user_json: small JSON object of the user's.
        arrays: named arrays (logits, features).
        array_dtypes: what each is stored as, by name: ``float16``, the default, ``float32`` or ``uint8``.
        fields: at most 16 values by name, to filter and group by: text of at most 128 characters, numbers, bools. A
            name is of A-Z a-z 0-9 _, at most 32 of them, and begins with no digit.

    Raises:
        FormatError: anything of the above is not so; the message says what and what would be right.
    """
    codec = _codec_of(codec)
    keep_mask = _mask_of(keep_mask, patches)
    ids, token_mask = _text_of(token_ids, token_positions, text_length)
    if not is_number(score, -MAX_SCORE, MAX_SCORE):
        raise FormatError(f"score must be a finite number, got {score!r:.100}")
    if not isinstance(learner_id, str):
        raise FormatError(f"learner_id must be text, got {learner_id!r:.100}")
    h, w = keep_mask.shape
    extras = make_extras(user_json, arrays, array_dtypes, fields)
    features = (FLAG_WIDE_TOKENS if ids.max(initial=0) > 0xFFFF else 0) | extras.feature_flags
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
        layout=_layout_of(layout, keep_mask, patches, codec),
        payload=b"",
        text_length=len(token_mask),
        token_mask_bytes=mask_to_bytes(token_mask),
        token_ids_bytes=ids.astype(token_dtype(features)).tobytes(),
        extras=extras.encode(),
        feature_flags=features,
    )
    payload = _coded(codec, patches, keep_mask, record.layout, other_bytes=record.charge)
    record = replace(record, payload=payload)
    check_record(record)
    return record


def make_record_of_parts(
    parts: Sequence[Picture | Text],
    *,
    class_id: int,
    codec: PatchCodec | None = None,
    user_json: dict[str, Any] | None = None,
    **others: Unpack[RecordFields],
) -> Record:
    """Encode one exemplar of several pictures and texts, in the order in which a model reads them.

    Its texts one after another are the record's text, and its first picture is what its header describes.

    Args:
        parts: at least one picture. All have patches of one size.
        user_json, others: as in :func:`make_record`.

    Raises:
        FormatError: as :func:`make_record`; or ``codec`` aims at a record's bytes, which is for records of one picture.
    """
    codec = _codec_of(codec)
    if isinstance(codec, LossyCodec) and isinstance(codec.quality, TargetBytes):
        raise FormatError("a target in bytes is for records of one picture: give the codec another quality")
    heads: list[PartHead] = []
    payloads: list[bytes] = []
    ids: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.int64]] = []
    length = 0
    first: Picture | None = None
    for part in _listed(parts):
        if isinstance(part, Text):
            said, mask = _text_of(part.token_ids, part.token_positions, part.text_length)
            ids.append(said)
            positions.append(length + np.flatnonzero(mask))
            length += len(mask)
            heads.append(Said(part.role, len(mask)))
        elif first is None:
            _mask_of(part.keep_mask, part.patches)
            first = part
            heads.append(None)
        else:
            keep_mask = _mask_of(part.keep_mask, part.patches)
            if part.patches.shape[1] != first.patches.shape[1]:
                sizes = f"{first.patches.shape[1]} and {part.patches.shape[1]} px"
                raise FormatError(f"the pictures of a record have patches of one size, these have {sizes}")
            layout = _layout_of(part.layout, keep_mask, part.patches, codec)
            payloads.append(_coded(codec, part.patches, keep_mask, layout, other_bytes=0))
            mask_bytes = mask_to_bytes(keep_mask)
            heads.append(Further(keep_mask.shape, LAYOUT_FLAGS[layout], len(payloads[-1]), mask_bytes))
    if first is None:
        raise FormatError("parts need a picture: a record has one at least")
    record = make_record(
        class_id=class_id,
        codec=codec,
        patches=first.patches,
        keep_mask=first.keep_mask,
        layout=first.layout,
        token_ids=np.concatenate([np.zeros(0, np.int64), *ids]),
        token_positions=np.concatenate([np.zeros(0, np.int64), *positions]),
        text_length=length,
        user_json=user_json,
        **others,
    )
    extras = replace(decode_extras(record.extras), parts=tuple(heads))
    record = replace(
        record,
        extras=extras.encode(),
        feature_flags=record.feature_flags | extras.feature_flags,
        payload=b"".join((record.payload, *payloads)),
    )
    check_record(record)
    return record


def _listed(parts: Any) -> list[Picture | Text]:
    listed = list(parts) if isinstance(parts, Sequence) else [parts]
    for part in listed:
        if not isinstance(part, Picture | Text):
            raise FormatError(f"parts are a list of Picture and Text, got {part!r:.100}")
        if isinstance(part, Text) and not _is_role(part.role):
            raise FormatError(f"a role is 1..32 of A-Z a-z 0-9 . _ -, got {part.role!r:.100}")
    return listed


def _is_role(role: object) -> bool:
    return isinstance(role, str) and ROLE_PATTERN.fullmatch(role) is not None


def _codec_of(given: Any) -> PatchCodec:
    if given is None:
        return WebP()
    if not isinstance(given, PatchCodec):
        raise FormatError(f"codec must be one of memory_format.CODECS, made, as WebP(quality=30); got {given!r:.100}")
    return given


def _layout_of(given: Any, keep_mask: BoolArray, patches: ByteArray, codec: PatchCodec) -> Layout:
    if given is None:
        return default_layout(keep_mask, patches.shape[1], codec.block_px)
    if not is_one_of(given, tuple(LAYOUT_FLAGS)):
        raise bad_layout(given)
    return cast(Layout, given)


def _coded(codec: PatchCodec, patches: ByteArray, keep_mask: BoolArray, layout: Layout, *, other_bytes: int) -> bytes:
    canvas = lay_out(patches, keep_mask, keep_mask.shape, layout)
    if isinstance(codec, LossyCodec):
        kept = kept_pixels(keep_mask, patches.shape[1], layout)
        return codec.encode_canvas(canvas, kept, other_bytes=other_bytes)
    return codec.encode(canvas)


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
    if ids.size and (ids.min() < 0 or ids.max() >= 2**32):
        raise FormatError(f"token ids must lie in 0..4294967295, got {ids.min()} to {ids.max()}")
    if positions.size and (positions[0] < 0 or positions[-1] >= length or (np.diff(positions) <= 0).any()):
        raise FormatError(f"token_positions must ascend within [0, {length})", code="mask_mismatch")
    token_mask = np.zeros(length, dtype=bool)
    token_mask[positions] = True
    return ids, token_mask
