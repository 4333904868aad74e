"""What the service tells of itself, as values. Members that a newer service adds are passed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.errors import ProtocolError

T = TypeVar("T")


@dataclass(frozen=True)
class ServiceInfo:
    """What answers at the address, and what it has on offer."""

    service: str
    version: str
    wire_version: str
    segment_format: int = 0
    """Of its segment files."""
    schema_version: str = ""
    """Of its index."""
    codecs: tuple[str, ...] = ()
    eviction: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExemplarInfo:
    """One exemplar without its pixels and tokens."""

    exemplar_id: int
    class_id: int
    phase: int
    learner_id: str
    score: float
    rank: int
    grid: tuple[int, int]
    patch_px: int
    num_patches: int
    keep_ratio: float
    """``num_patches`` of the grid's cells."""
    num_tokens: int
    text_length: int
    codec: str
    layout: str
    has_extras: bool
    charge: int
    """Bytes of the budget that it takes."""
    crc32: int
    """Of its body."""


@dataclass(frozen=True, eq=False)
class ExemplarDetail(ExemplarInfo):
    """One exemplar with its masks, tokens and the user's JSON; :meth:`Buffer.image` shows its pixels."""

    keep_mask: NDArray[np.bool_]
    """``(h, w)``, True = kept."""
    token_ids: NDArray[np.int64]
    """``(T,)``."""
    token_positions: NDArray[np.int64]
    """``(T,)``."""
    user_json: dict[str, Any]


@dataclass(frozen=True)
class BufferInfo:
    """A buffer's settings, and how full it is."""

    name: str
    budget_bytes: int
    """What the budget comes to now."""
    full_samples_per_class: int | None
    """None, as the next two, where the budget was given in bytes."""
    full_sample_bytes: int | None
    num_classes: int | None
    """None also where the budget grows with the classes seen."""
    disk_limit_bytes: int
    """Given, or the default for the budget."""
    eviction: str
    retain_snapshots: int | None
    """None: all are kept."""
    description: str
    created_at: float
    """Seconds since 1970."""
    version: int
    """Counts the changes of the contents."""
    bytes_used: int
    num_records: int
    max_budget_bytes: int | None = None
    """Where the budget grows, to no more than that; None: than 1,000 classes' worth."""


@dataclass(frozen=True)
class ChangedBuffer(BufferInfo):
    """A buffer after :meth:`Buffer.configure`."""

    evicted: tuple[int, ...] = ()
    """Ids of the exemplars that a smaller budget evicted."""


@dataclass(frozen=True)
class ClassStats:
    """One class's share of a buffer."""

    class_id: int
    count: int
    bytes: int


@dataclass(frozen=True)
class BufferStats:
    """Figures of a buffer, all of one moment."""

    budget_bytes: int
    bytes_used: int
    bytes_free: int
    utilization: float
    """``bytes_used`` of ``budget_bytes``, 0..1."""
    num_records: int
    num_classes: int
    """Classes that it holds records of."""
    num_classes_seen: int
    """Classes of all records that were ever offered to it."""
    bytes_per_exemplar: float | None
    """None while the buffer is empty."""
    classes: tuple[ClassStats, ...]
    phases: dict[int, int]
    """Phase -> records."""
    learners: dict[str, int]
    """Learner id -> records."""
    disk_limit_bytes: int
    disk_bytes: int
    """Bytes on the service's disk: files, and rows of the index."""
    dead_bytes: int
    """Of the files, what no record needs that the buffer or a snapshot holds."""
    pinned_bytes: int
    """Of the files, records that only snapshots and exports under way hold."""
    index_bytes: int
    """Of ``disk_bytes``, rows of the index."""
    segments: int
    """Files."""
    open_segments: int
    """Files that still grow."""
    orphans: int
    """Files of the whole store that are to be deleted, and could not be yet."""
    snapshots: int
    version: int
    pushes: int
    samples: int
    held_bytes: int = 0
    """Of ``disk_bytes``, files that are removed once those who read them are done."""


@dataclass(frozen=True)
class PushResult:
    """What became of the records of one push, all its batches together."""

    exemplar_ids: tuple[int | None, ...]
    """One for each record pushed, in order; None where the record was not kept. A later batch of the same push
    may have evicted it again: see ``evicted``."""
    kept: int
    """Records that were kept when their batch was pushed."""
    rejected: int
    """Records that were not."""
    evicted: tuple[int, ...]
    """Ids of earlier exemplars that made room."""
    bytes_used: int
    budget_bytes: int
    version: int
    batches: int
    """In how many pieces the records were taken in."""


@dataclass(frozen=True)
class UpdateResult:
    """What became of new scores or ranks."""

    updated: int
    """Exemplars that have the values now."""
    missing: tuple[int, ...]
    """Ids that the buffer does not hold (any more)."""
    version: int


@dataclass(frozen=True)
class DeleteResult:
    """What a deletion removed."""

    deleted: tuple[int, ...]
    bytes_used: int
    version: int
    missing: tuple[int, ...] = ()
    """Ids asked for that the buffer did not hold (any more)."""


@dataclass(frozen=True)
class SnapshotInfo:
    """A name for what a buffer held at one version."""

    name: str
    version: int
    num_records: int
    bytes_used: int
    created_at: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class DiffSide:
    """Exemplars that only one of two states holds."""

    count: int
    bytes: int
    classes: tuple[ClassStats, ...]
    exemplar_ids: tuple[int, ...]
    """The first 10,000 of them."""


@dataclass(frozen=True)
class Diff:
    """What came and went between two states of a buffer."""

    from_version: int
    to_version: int
    added: DiffSide
    evicted: DiffSide
    """Deleted ones among them."""


def parse(kind: type[T], document: Any) -> T:
    """A value of the dataclass ``kind`` from a JSON object.

    Raises:
        ProtocolError: it is not an object, or a member is missing or of the wrong type.
    """
    if not isinstance(document, Mapping):
        raise ProtocolError(f"expected {kind.__name__} as a JSON object, got {type(document).__name__}")
    values = {}
    for member in fields(kind):  # type: ignore[arg-type]  # T is one of the dataclasses above
        if member.name in document:
            value = document[member.name]
            try:
                values[member.name] = _READERS[str(member.type)](value)
            except (TypeError, ValueError, AttributeError):
                raise ProtocolError(f"{kind.__name__}.{member.name} cannot be {value!r:.80}") from None
        elif member.default is MISSING:
            raise ProtocolError(f"the service sent {kind.__name__} without {member.name!r}; is it of another version?")
    return kind(**values)


def _exactly(kind: type[T], value: Any) -> T:
    # bool is an int to isinstance, and is none on the wire.
    if type(value) is not kind:
        raise TypeError(kind.__name__)
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError("not a number")
    return float(value)


def _grid(value: Any) -> tuple[int, int]:
    rows, columns = value
    return _exactly(int, rows), _exactly(int, columns)


_READERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda value: _exactly(int, value),
    "str": lambda value: _exactly(str, value),
    "bool": lambda value: _exactly(bool, value),
    "float": _number,
    "int | None": lambda value: None if value is None else _exactly(int, value),
    "float | None": lambda value: None if value is None else _number(value),
    "tuple[int, int]": _grid,
    "tuple[int, ...]": lambda value: tuple(_exactly(int, item) for item in _exactly(list, value)),
    "tuple[str, ...]": lambda value: tuple(_exactly(str, item) for item in _exactly(list, value)),
    "tuple[ClassStats, ...]": lambda value: tuple(parse(ClassStats, item) for item in _exactly(list, value)),
    "DiffSide": lambda value: parse(DiffSide, value),
    "dict[int, int]": lambda value: {int(key): _exactly(int, count) for key, count in value.items()},
    "dict[str, int]": lambda value: {_exactly(str, key): _exactly(int, n) for key, n in value.items()},
    "dict[str, Any]": lambda value: _exactly(dict, value),
    "NDArray[np.bool_]": lambda value: np.array(value, dtype=bool),
    "NDArray[np.int64]": lambda value: np.array(value, dtype=np.int64),
}
"""How a member of each declared type is read."""
