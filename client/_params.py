"""What a caller gave, as what a request carries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from client._transport import Params
from memory_format import FormatError
from memory_format.api.terms import FINGERPRINT_PATTERN, STREAM_PATTERN, EvictionPolicy
from memory_format.arguments import is_whole
from memory_format.user_fields import FieldValue, check_fields, written

T = TypeVar("T")
Many: TypeAlias = T | Sequence[T] | None
"""One value, several of which any may match, or None for no condition."""
Fields: TypeAlias = Mapping[str, Many[FieldValue]] | None
"""Conditions on fields of the user's, by name."""


class BufferSettings(TypedDict, total=False):
    """Settings that change; see :meth:`client.MemoryClient.create_buffer`."""

    budget_bytes: int
    full_samples_per_class: int
    full_sample_bytes: int
    num_classes: int | None
    max_budget_bytes: int | None
    disk_limit_bytes: int | None
    eviction: EvictionPolicy
    retain_snapshots: int | None
    learner_floor: float | None
    description: str
    patch_px: int | None
    vocabulary: str | None
    vocabulary_name: str
    owner: str


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def listed(name: str, values: Any) -> list[FieldValue] | None:
    """A filter's values as plain Python ones, None where there is no condition."""
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        values = np.atleast_1d(values).tolist()
    found: list[Any] = [values] if isinstance(values, str) or not isinstance(values, Iterable) else [*values]
    if not found:
        # Nothing matches it, and sent as no values it would match everything.
        raise ValueError(f"{name}: an empty list matches nothing; None means no condition")
    return [value.item() if isinstance(value, np.generic) else value for value in found]


def conditions(
    class_id: Many[int],
    phase: Many[int],
    learner_id: Many[str],
    not_learner_id: Many[str] = None,
    fields: Fields = None,
    **more: Any,
) -> dict[str, Any]:
    """The filters that are given, by name, and what else is."""
    return present(
        {
            "class_id": listed("class_id", class_id),
            "phase": listed("phase", phase),
            "learner_id": listed("learner_id", learner_id),
            "not_learner_id": listed("not_learner_id", not_learner_id),
            "fields": _of_fields(fields),
            **more,
        }
    )


def _of_fields(fields: Fields) -> dict[str, list[FieldValue]] | None:
    """A condition's values by field; None where there is none.

    Raises:
        FormatError: a name or a value that no field has.
        ValueError: it is no dictionary, or a field has no values.
    """
    if not isinstance(fields, Mapping | None):
        raise ValueError(f"fields is a dictionary of values by name, such as {{'camera': 'left'}}; got {fields!r:.100}")
    found = {}
    for name, values in (fields or {}).items():
        items = listed(f"fields[{name!r:.100}]", values)
        if items is None:
            raise ValueError(f"fields[{name!r:.100}] is None, which no record has; leave it out for no condition")
        found[name] = [check_fields({name: item})[name] for item in items]
    return found or None


def query_string(values: Mapping[str, Any]) -> Params:
    """A parameter for each value, and for each item of one that is a list; none for None."""
    params: Params = []
    for name, value in present(values).items():
        if name == "fields":
            params += [("field", f"{of}:{written(item)}") for of, items in value.items() for item in items]
            continue
        params += [(name, item) for item in (value if isinstance(value, list) else [value])]
    return params


def whole(name: str, value: Any, lowest: int, highest: int = 2**63 - 1) -> int:
    """A whole number, numpy's too, as Python's.

    Raises:
        ValueError: it is none, or lies outside.
    """
    if not is_whole(value, lowest, highest):
        raise ValueError(f"{name} must be a whole number in {lowest}..{highest}, got {value!r:.100}")
    return int(value)


def stream_label(value: Any) -> str:
    """What names a stream of draws.

    Raises:
        ValueError: it is no such label.
    """
    if not isinstance(value, str) or not STREAM_PATTERN.fullmatch(value):
        raise ValueError(f"stream must be a label of up to 64 printable ASCII characters, got {value!r:.100}")
    return value


def fingerprint(value: Any) -> str:
    """What names a vocabulary.

    Raises:
        ValueError: it is no such name.
    """
    if not isinstance(value, str) or not FINGERPRINT_PATTERN.fullmatch(value):
        raise ValueError(f"a vocabulary is named by what vocabulary_fingerprint(words) gives, got {value!r:.100}")
    return value


def json_body(members: Mapping[str, Any]) -> bytes:
    """A request's JSON. Numpy's numbers are numbers.

    Raises:
        FormatError: a member cannot be said in JSON.
    """
    try:
        return json.dumps(members, default=_plain, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        if len(members) == 1:
            ((name, value),) = members.items()
            raise FormatError(f"{name} cannot be {value!r:.100}", code="invalid_request") from None
        for name, value in members.items():
            json_body({name: value})
        raise


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)


def numbers(name: str, values: ArrayLike, *, whole: bool = True) -> NDArray[Any]:
    """``(N,)`` integers, or with ``whole=False`` any finite numbers.

    Raises:
        ValueError: they are something else.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: a flat sequence is needed, got {values!r:.100}") from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in ("iu" if whole else "iuf")):
        kind = "integers" if whole else "numbers"
        raise ValueError(f"{name}: a flat sequence of {kind} is needed, got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: every one must be finite")
    return array
