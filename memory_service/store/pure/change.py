"""A change of a buffer as a value: what it does, and what writing it has added."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory_format.api.phases import LearnerPhase
from memory_service.store.pure import ledger
from memory_service.store.pure.columns import ROW_DTYPE, Rows
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.revised import NOTHING_REVISED, Revised
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.pure.words import Words

Body = bytes | bytearray | memoryview

_DICTIONARY: Final = (
    b'null,null,null],"kept":0,"rejected":1,"evicted":[],"bytes_used":{"exemplar_ids":[null],"kept":1,"rejected":0,'
    b'"evicted":[],"bytes_used":,"budget_bytes":,"version":'
)
"""What every answer is made of. Stored answers need it to be read: it never changes."""

_NOWHERE = np.zeros(0, dtype=np.int64)


class PushKey(NamedTuple):
    """An idempotency key, which names pushes of one learner."""

    learner_id: str
    """Of the push's first record."""
    idempotency_key: str


@dataclass(frozen=True)
class Answer:
    """What a push with an idempotency key was told, small enough to keep one for every push. Make one with
    :meth:`of`."""

    learner_id: str
    idempotency_key: str
    digest: bytes
    answer: bytes
    """The JSON, deflated with :data:`_DICTIONARY`."""

    @classmethod
    def of(cls, key: PushKey, digest: bytes, document: str) -> Answer:
        """Of the push with that key and digest, told that JSON."""
        deflate = zlib.compressobj(9, zdict=_DICTIONARY)
        return cls(*key, digest, deflate.compress(document.encode()) + deflate.flush())

    @property
    def num_bytes(self) -> int:
        """What the ledger counts."""
        return ledger.answer_bytes(len(self.learner_id) + len(self.idempotency_key), len(self.answer))


def read_answer(answer: bytes) -> str:
    """The JSON of a stored answer, also of one from before there was a dictionary."""
    return zlib.decompressobj(zdict=_DICTIONARY).decompress(answer).decode()


@dataclass(frozen=True)
class Change:
    """What one transaction does to a buffer; whatever is not said stays as it is."""

    version: int
    next_id: int
    config: BufferConfig
    new: Rows = field(default_factory=lambda: np.zeros(0, ROW_DTYPE))
    """Records that come in, with their ids, ``segment`` and ``offset`` still open."""
    bodies: list[memoryview] = field(default_factory=list)
    revised: Revised = field(default_factory=lambda: NOTHING_REVISED)
    """Which of those replace others."""
    dead: NDArray[np.int64] = field(default_factory=lambda: _NOWHERE)
    """Positions of live records that leave, ascending."""
    died: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """The version at which each of them does."""
    rescored: NDArray[np.int64] = field(default_factory=lambda: _NOWHERE)
    """Positions of live records that get another score or rank, ascending."""
    score: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    rank: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    classes: frozenset[int] = frozenset()
    """Classes seen for the first time."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Class id -> name, of classes that are named for the first time."""
    words: Words | None = None
    """Those of its vocabulary, which become known."""
    joins: LearnerPhase | None = None
    """A learner that says for the first time in which phase it is."""
    leaves: str | None = None
    """The id of one that is in no phase any more."""
    answers: Sequence[Answer] = ()
    snapshot: Snapshot | None = None
    """One that is taken."""
    dropped: Sequence[Snapshot] = ()
    """Snapshots that are deleted."""
    freed: NDArray[np.int64] = field(default_factory=lambda: _NOWHERE)
    """Positions of pinned records that no snapshot shows any more, ascending."""
    less: Sequence[Snapshot] = ()
    """Snapshots as they are without those."""
    forgets_answers: bool = False
    """Answers to pushes go, all but the newest."""

    @property
    def removes(self) -> bool:
        """Whether records may leave by it."""
        return bool(len(self.dead) or self.dropped or len(self.freed))


@dataclass(frozen=True)
class Leaving:
    """What a change takes out of a buffer."""

    live: Rows
    """Records that are live before it."""
    pinned: NDArray[np.bool_]
    """Which of them a snapshot goes on showing."""
    freed: NDArray[np.bool_]
    """Which of the records that only snapshots hold no snapshot will show."""
    lost: Rows
    """Those."""

    @property
    def ids(self) -> list[int]:
        """Of what nobody can read any more."""
        gone: list[int] = self.live["exemplar_id"][~self.pinned].tolist()
        return gone + [int(id_) for id_ in self.lost["exemplar_id"].tolist()]


@dataclass(frozen=True)
class Written:
    """What writing a change has added."""

    new: Rows
    """:attr:`Change.new` with ``segment`` and ``offset``."""
    segments: Sequence[SegmentState]
    """Those written to, as they are now; what a buffer holds of them is as before."""
    counts: IndexRows
    number: int
    """Of the last change of the index that the state after it has seen."""


@dataclass(frozen=True)
class Move:
    """What rewriting a segment has changed: where its records lie."""

    gone: int
    """Id of the segment that was rewritten."""
    live: Rows
    """Its live records where they are now."""
    pinned: Rows
    """And those that only snapshots hold."""
    segments: Sequence[SegmentState]
    """As :attr:`Written.segments`."""
    number: int
