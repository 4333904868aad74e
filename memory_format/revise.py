"""Records with other arrays in place of theirs: a stored exemplar's logits or features, made anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_format.body import (
    MAX_BODY_BYTES,
    MAX_EXTRAS_BYTES,
    extras_of,
    split_body,
    too_large,
    too_large_extras,
)
from memory_format.extras import ArrayDtype, Revision, decode_extras, dtype_of, stored_array
from memory_format.header import FLAG_EXTRAS


@dataclass(frozen=True, eq=False)
class NewArray:
    """Values of one array of N exemplars."""

    values: NDArray[np.float32]
    """``(N, ...)``."""
    dtype: ArrayDtype | None = None
    """As which they are stored; None: as the array is that they replace, or as float16."""


def revised(
    header: np.void,
    body: bytes | memoryview,
    arrays: Mapping[str, NewArray],
    place: int,
    revision: tuple[int, int],
) -> tuple[int, bytes] | None:
    """Flags and body of a record with arrays replaced, or added where it has none of that name.

    Args:
        header: as the body is stored.
        arrays: by name; of each, the values at ``place``.
        revision: which exemplar it is, and how often its arrays are replaced then.

    Returns:
        None where the record has these very arrays.

    Raises:
        FormatError: values do not fit their type, or the record would be too large.
    """
    before, behind = split_body(header, body)
    extras = decode_extras(extras_of(header, body))
    changed = {}
    for name, new in arrays.items():
        old = extras.arrays.get(name)
        dtype = new.dtype or ("float16" if old is None else dtype_of(old))
        stored = stored_array(name, new.values[place], dtype)
        same = old is not None and (old.dtype, old.shape) == (stored.dtype, stored.shape)
        if old is None or not same or old.tobytes() != stored.tobytes():
            changed[name] = stored
    if not changed:
        return None
    extras = replace(extras, arrays=extras.arrays | changed, revision=Revision(*revision))
    encoded = extras.encode()
    if len(encoded) > MAX_EXTRAS_BYTES:
        raise too_large_extras(len(encoded))
    new_body = b"".join((before, len(encoded).to_bytes(4, "little"), encoded, behind))
    if len(new_body) > MAX_BODY_BYTES:
        raise too_large(len(new_body))
    return int(header["flags"]) | FLAG_EXTRAS | extras.feature_flags, new_body
