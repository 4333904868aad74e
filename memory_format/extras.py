"""What the user hangs on a record: a small JSON object and named arrays (logits, features).

One line of JSON, ``{"user": {...}, "arrays": {name: shape}}`` with ``"fields"`` where there are some, a newline, then
the arrays' little-endian values one after another, in the JSON's order, row-major. The shape of a float32 array begins
with ``"f4"``, that of a uint8 array with ``"u1"``; others are float16. Where arrays were replaced, ``"revision"`` says
of which exemplar, and how often.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from memory_format.arguments import is_one_of, is_settings
from memory_format.errors import FormatError
from memory_format.header import FLAG_PARTS, FLAG_REVISED, FLAG_TYPED
from memory_format.parts import PartHead, further_of, parts_json, read_parts
from memory_format.text import refuse_constant
from memory_format.user_fields import FieldValue, check_fields

MAX_JSON_DEPTH = 8

ArrayDtype = Literal["float16", "float32", "uint8"]
StoredArray: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.uint8]

_DTYPES: Final[dict[ArrayDtype, np.dtype[Any]]] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "uint8": np.dtype("u1"),
}
_WORDS: Final = {"f4": _DTYPES["float32"], "u1": _DTYPES["uint8"]}
"""What the shapes of arrays begin with; float16 has no such word."""


class Revision(NamedTuple):
    """That arrays of an exemplar were replaced."""

    exemplar_id: int
    number: int
    """How often, from 1."""


@dataclass(frozen=True)
class Extras:
    """What a record's extras say."""

    user: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, StoredArray] = field(default_factory=dict)
    fields: dict[str, FieldValue] = field(default_factory=dict)
    parts: tuple[PartHead, ...] = ()
    revision: Revision | None = None

    @property
    def feature_flags(self) -> int:
        """Flags that their record must have, and no other of ``FLAG_TYPED``, ``FLAG_PARTS`` and ``FLAG_REVISED``."""
        flags = FLAG_REVISED if self.revision else 0
        if self.parts:
            return flags | FLAG_TYPED | FLAG_PARTS
        return flags | (FLAG_TYPED if self.fields or any(map(_word, self.arrays.values())) else 0)

    def encode(self) -> bytes:
        """The extras as bytes, empty where there is nothing to say.

        Raises:
            FormatError: the JSON is not an object of plain values, or is too deep.
        """
        if not (self.user or self.arrays or self.fields or self.parts or self.revision):
            return b""
        shapes = {name: [*_word(values), *values.shape] for name, values in self.arrays.items()}
        said: dict[str, Any] = {"user": self.user, "arrays": shapes, **({"fields": self.fields} if self.fields else {})}
        if self.parts:
            said["parts"] = parts_json(self.parts)
        if self.revision:
            said["revision"] = self.revision
        try:
            head = json.dumps(said, separators=(",", ":"), allow_nan=False)
            if "\\ud" in head:
                json.dumps(said, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            # As Python reads bytes that are no UTF-8 with errors="surrogateescape".
            words = "user_json has a text with half of a surrogate pair, which is no character: was it read as UTF-8?"
            raise FormatError(words) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"user_json must be plain JSON: {error}") from None
        masks = (picture.keep_mask_bytes for picture in further_of(self.parts))
        values = (values.tobytes() for values in self.arrays.values())
        extras = b"".join((head.encode(), b"\n", *masks, *values))
        decode_extras(extras)
        return extras


def make_extras(
    user_json: dict[str, Any] | None,
    arrays: Mapping[str, Any] | None,
    array_dtypes: Mapping[str, ArrayDtype] | None = None,
    fields: Mapping[str, FieldValue] | None = None,
) -> Extras:
    """The user's JSON, arrays and fields, as they are stored.

    Args:
        array_dtypes: by name; what is not in it is float16.

    Raises:
        FormatError: they are no tables by name, an array holds no numbers or overflows its type, there is no such
            array or type, or fields are not such.
    """
    tables = {"user_json": user_json, "arrays": arrays, "array_dtypes": array_dtypes}
    for name, value in tables.items():
        if not (value is None or is_settings(value)):
            raise FormatError(f"{name} must be a dict whose names are text, got {value!r:.100}")
    dtypes = dict(array_dtypes or {})
    for name, dtype in dtypes.items():
        if name not in (arrays or {}):
            raise FormatError(f"array_dtypes names {name!r}, arrays has {', '.join(arrays or {}) or 'none'}")
        if not is_one_of(dtype, get_args(ArrayDtype)):
            raise FormatError(f"array {name!r} can be {' or '.join(get_args(ArrayDtype))}, got {dtype!r:.100}")
    stored = {name: stored_array(name, values, dtypes.get(name, "float16")) for name, values in (arrays or {}).items()}
    return Extras(dict(user_json or {}), stored, check_fields(fields or {}))


def stored_array(name: str, given: Any, dtype: ArrayDtype) -> StoredArray:
    """An array as it is stored.

    Raises:
        FormatError: it holds no numbers, or such as its type has none of.
    """
    try:
        values = np.asarray(given)
        if values.dtype.kind not in "biuf":
            raise TypeError(values.dtype)
    except (TypeError, ValueError):
        raise FormatError(f"array {name!r} must hold numbers, got {given!r:.100}") from None
    with np.errstate(over="ignore", invalid="ignore"):
        stored: StoredArray = values.astype(_DTYPES[dtype])
    if dtype == "uint8":
        if not (stored == values).all():
            raise FormatError(f"array {name!r} has values that are no whole numbers from 0 to 255, as uint8 has them")
    elif np.isfinite(values).all() and not np.isfinite(stored).all():
        raise FormatError(f"array {name!r} has values beyond {dtype}'s range ({np.finfo(_DTYPES[dtype]).max:.5g})")
    return stored


def dtype_of(values: StoredArray) -> ArrayDtype:
    """What an array is stored as."""
    return next(name for name, dtype in _DTYPES.items() if values.dtype == dtype)


def decode_extras(extras: bytes) -> Extras:
    """Inverse of :meth:`Extras.encode`.

    Raises:
        FormatError: the bytes are not such a line and arrays.
    """
    if not extras:
        return Extras()
    head, separator, data = extras.partition(b"\n")
    try:
        parsed = json.loads(head, parse_constant=refuse_constant)
        # Whoever reads it must be able to write it out again: a lone surrogate is legal in JSON's escapes
        # and in no UTF-8, and 1e999 reads as infinity.
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
        user, shapes = parsed["user"], parsed["arrays"]
        given, listed, revision = parsed.get("fields"), parsed.get("parts"), parsed.get("revision")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        user, shapes, given, listed, revision = None, None, None, None, None
    if not (
        separator
        and isinstance(user, dict)
        and isinstance(shapes, dict)
        and all(_is_shape(shape) for shape in shapes.values())
    ):
        if isinstance(shapes, dict) and any(map(_is_of_newer_type, shapes.values())):
            raise FormatError(f"extras have arrays of types other than {', '.join(_DTYPES)}: of a newer version?")
        raise FormatError('extras must be a line of JSON {"user": {...}, "arrays": {name: shape}} and the arrays')
    fields = {} if given is None else check_fields(given)
    if _depth(user) > MAX_JSON_DEPTH:
        raise FormatError(f"user_json is nested deeper than {MAX_JSON_DEPTH} levels")
    parts, start = ((), 0) if listed is None else read_parts(listed, data)
    arrays: dict[str, StoredArray] = {}
    for name, said in shapes.items():
        dtype, shape = (_WORDS[said[0]], said[1:]) if _has_word(said) else (_DTYPES["float16"], said)
        end = start + dtype.itemsize * math.prod(shape)
        if end > len(data):
            raise FormatError(f"extras end inside array {name!r}")
        arrays[name] = np.frombuffer(data[start:end], dtype=dtype).reshape(shape)
        start = end
    if start != len(data):
        raise FormatError("extras have bytes past their last array")
    return Extras(user, arrays, fields, parts, None if revision is None else _read_revision(revision))


def _read_revision(said: Any) -> Revision:
    if not (isinstance(said, list) and len(said) == 2 and all(type(n) is int and 1 <= n < 2**63 for n in said)):
        raise FormatError(f"a revision is [exemplar_id, number], both from 1 on, got {said!r:.100}")
    return Revision(*said)


def _word(values: StoredArray) -> list[str]:
    return [word for word, dtype in _WORDS.items() if values.dtype == dtype]


def _has_word(shape: list[Any]) -> bool:
    return bool(shape) and isinstance(shape[0], str) and shape[0] in _WORDS


def _is_of_newer_type(shape: Any) -> bool:
    return isinstance(shape, list) and bool(shape) and isinstance(shape[0], str) and not _has_word(shape)


def _is_shape(shape: Any) -> bool:
    """Whether every numpy takes it: at most 32 axes, and no overflow even where one of them is 0."""
    if isinstance(shape, list) and _has_word(shape):
        shape = shape[1:]
    return (
        isinstance(shape, list)
        and len(shape) <= 32
        and all(type(n) is int and n >= 0 for n in shape)
        and math.prod(max(n, 1) for n in shape) < 2**31
    )


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return deepest - 1
