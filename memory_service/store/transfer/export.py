"""A buffer as one file, piece by piece. The same records make the same bytes.

The file is a Zarr store in a ZIP, like a segment, that says all there is to know: docs/format.md describes it.
``tables.py`` beside this makes tables of the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from memory_format.api.fields import (
    ClassId,
    ClassName,
    Fingerprint,
    LearnerFloor,
    PatchPx,
    RunId,
    Timestamp,
    TokenWord,
    VocabularyName,
)
from memory_format.api.terms import MAX_DESCRIPTION, NAME_PATTERN, EvictionPolicy
from memory_format.checksum import crc32_of_all
from memory_format.header import HEADER_DTYPE
from memory_service.store.pure.columns import Columns, headers_of_rows
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.words import Words
from memory_service.store.segments.layout import BODY_ENTRY, Entry, local_header, small_entries, zip_directory
from memory_service.store.segments.readers import Lease

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Bodies read, checked and written at a time."""
PIECE_RECORDS: Final = 16_384
"""And no more records than that, however small they are."""

MAX_COUNT: Final = 2**62
"""Of versions and exemplar ids that are taken over: room for as many again in the index's 63 bits."""


class BufferDescription(BaseModel):
    """What an export says of its buffer, in the attribute ``exemplar_memory_buffer``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=f"^{NAME_PATTERN.pattern}$")
    budget_bytes: int
    full_samples_per_class: int | None
    full_sample_bytes: int | None
    num_classes: int | None
    disk_limit_bytes: int | None
    eviction: EvictionPolicy
    retain_snapshots: int | None = Field(lt=2**63)
    description: str = Field(max_length=MAX_DESCRIPTION)
    created_at: Timestamp
    version: int = Field(ge=0, lt=MAX_COUNT)
    next_exemplar_id: int = Field(ge=1, lt=MAX_COUNT)
    max_budget_bytes: int | None = None
    classes_seen: list[ClassId]
    learner_floor: LearnerFloor | None = None
    patch_px: PatchPx | None = None
    vocabulary: Fingerprint | None = None
    vocabulary_name: VocabularyName = ""
    owner: RunId = ""
    named_classes: list[ClassId] = []
    class_names: list[ClassName] = []
    """Of ``named_classes``."""
    words: list[TokenWord] = []
    """Of its vocabulary, where they are known."""
    draw_key: str | None = Field(None, pattern=f"^({NAME_PATTERN.pattern})?$")
    """None in files from before it was stored: buffers drew by their names then."""

    @property
    def names(self) -> dict[int, str]:
        """Class id -> name."""
        return dict(zip(self.named_classes, self.class_names, strict=True))

    def config(self, name: str) -> BufferConfig:
        """The settings of a buffer that is made of it. Raises ``FormatError`` (``invalid_budget``)."""
        said = self.model_dump() | {"name": name, "draw_key": self.name if self.draw_key is None else self.draw_key}
        said["made_by"] = ""
        config = BufferConfig.of_settings(said)
        budget = config.budget
        if budget.grows and self.budget_bytes > budget.most_bytes and "max_budget_bytes" not in self.model_fields_set:
            # In files from before there was a ceiling.
            budget = replace(budget, max_budget_bytes=self.budget_bytes)
        return replace(config, budget=budget, budget_bytes=budget.bytes_for(len(self.classes_seen)))


def describe(
    config: BufferConfig,
    version: int,
    mark: Snapshot,
    classes: Iterable[int],
    names: Mapping[int, str],
    words: Words | None,
) -> BufferDescription:
    """A buffer as it is at ``mark``."""
    return BufferDescription(
        **config.settings(),
        version=version,
        next_exemplar_id=mark.next_exemplar_id,
        classes_seen=sorted(classes),
        named_classes=sorted(names),
        class_names=[names[class_id] for class_id in sorted(names)],
        words=[] if words is None else list(words.listed),
    )


def pieces(lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of records of about :data:`PIECE_BYTES`, of 1 to :data:`PIECE_RECORDS` records each."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + PIECE_BYTES, side="right")))
        last = min(last, first + PIECE_RECORDS)
        yield first, last
        first = last


@dataclass(frozen=True)
class Shown:
    """What a file is made of."""

    view: Columns
    """The records."""
    learner_ids: list[str]
    """What ``view["learner"]`` points into."""
    description: BufferDescription
    read: Callable[[NDArray[np.int64]], memoryview]
    """Positions in the view -> their bodies end to end."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` bytes of each body."""
        return self.view["length"].astype(np.int64)


class Export(Iterator[bytes]):
    """A buffer's file on its way out, piece by piece. Close it, or read it to its end: what it shows is kept for it.

    Args:
        pieces: of the file; none is empty.
        num_bytes: how long it is; None = that shows at its end.
        let_go: called once, when nothing more is read.
        lease: for which what it shows is kept.
    """

    def __init__(
        self,
        pieces: Generator[bytes, None, None],
        num_bytes: int | None,
        let_go: Callable[[], object],
        lease: Lease,
    ) -> None:
        self.lease = lease
        self.num_bytes = num_bytes
        self._pieces = pieces
        # Also where nobody reads it or closes it.
        self._let_go = weakref.finalize(self, let_go)
        self._let_go.atexit = False

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self._let_go()
            raise

    def close(self) -> None:
        self._pieces.close()
        self._let_go()


def zarr_file(shown: Shown) -> tuple[int, Generator[bytes, None, None]]:
    """The bytes of a Zarr store in a ZIP: how many, and the pieces of it."""
    lengths = shown.lengths
    head, tail = _frame(shown.view, shown.learner_ids, shown.description, lengths)
    return len(head) + int(lengths.sum()) + len(tail), _in_pieces(head, lengths, shown.read, tail)


def _frame(
    view: Columns, learner_ids: list[str], description: BufferDescription, lengths: NDArray[np.int64]
) -> tuple[bytes, bytes]:
    """What goes before the bodies and behind them."""
    codes, first_use = np.unique(view["learner"], return_index=True)
    # In the order in which they come: it does not depend on what else the buffer has held.
    codes = codes[np.argsort(first_use)]
    headers = headers_of_rows(view.take(np.arange(view.num_records)))
    columns: dict[str, NDArray[Any]] = {name: headers[name] for name in HEADER_DTYPE.names or ()}
    columns["offset"] = (np.cumsum(lengths) - lengths).astype(np.uint64)
    place = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.uint16)
    place[codes] = np.arange(len(codes))
    columns["learner"] = place[view["learner"]]
    num_bytes, learners = int(lengths.sum()), [learner_ids[code] for code in codes.tolist()]
    attributes = {"exemplar_memory_buffer": description.model_dump()}
    entries, head = small_entries(columns, learners, num_bytes, attributes, 0)
    # Every body is checked against its CRC when it is read, so theirs together is known before.
    crc32 = crc32_of_all(0, headers["crc32"].tolist(), lengths.tolist())
    entries.append(Entry(BODY_ENTRY, num_bytes, crc32, len(head)))
    head += local_header(BODY_ENTRY, num_bytes, crc32)
    return head, zip_directory(entries, len(head) + num_bytes)


def _in_pieces(
    head: bytes, lengths: NDArray[np.int64], read: Callable[[NDArray[np.int64]], memoryview], tail: bytes
) -> Generator[bytes, None, None]:
    yield head
    for first, last in pieces(lengths):
        yield bytes(read(np.arange(first, last)))
    yield tail
