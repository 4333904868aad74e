"""The index as a store sees it: what is where, in transactions that take and give the store's own types.

Implementations of :class:`Index` decide where it lies and in which language it is asked. Nothing above this package
knows SQL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_format import StorageError
from memory_service.store.pure.answers import Answer
from memory_service.store.pure.columns import Arrays, Rows
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments.base import KnownFiles, OpenSegment, Part

T = TypeVar("T")


@dataclass(frozen=True)
class BufferEntry:
    """A buffer's settings, and the counters that must agree with its records."""

    config: BufferConfig
    version: int
    next_exemplar_id: int
    bytes_used: int
    num_records: int


@dataclass
class BufferRows:
    """What else the index says of a buffer."""

    segments: list[SegmentState] = field(default_factory=list)
    """Their live and pinned parts not counted yet."""
    open_segments: dict[int, OpenSegment] = field(default_factory=dict)
    """Of those that are open, by id. Their CRC is 0: it follows from the file."""
    deaths: dict[int, tuple[NDArray[np.uint64], NDArray[np.uint64]]] = field(default_factory=dict)
    """Segment id -> ids of the records that died in it, ascending, and the versions at which they did."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    classes: set[int] = field(default_factory=set)
    counts: IndexRows = field(default_factory=IndexRows)
    scores: Arrays = field(default_factory=dict)
    """Scores and ranks that were changed after a push: ``exemplar_id``, ``score`` and ``rank`` as they are now."""


class Reading(ABC):
    """A transaction that sees one state of the index throughout.

    Every method raises ``StorageError`` where the index cannot be read.
    """

    @abstractmethod
    def number(self) -> int:
        """Of the last change that was counted: see :meth:`Index.write`."""

    @abstractmethod
    def buffers(self) -> list[BufferEntry]:
        """All of them."""

    @abstractmethod
    def find_buffer(self, of: str | int) -> BufferEntry | None:
        """The buffer of that name or id."""

    @abstractmethod
    def contents(self, buffer_id: int | None = None) -> dict[int, BufferRows]:
        """Buffer id -> its contents: of one buffer, or of all in as many statements."""

    @abstractmethod
    def open_segment(self, state: SegmentState) -> OpenSegment:
        """An open segment, its CRC 0."""

    @abstractmethod
    def scores_at(self, buffer_id: int, version: int) -> Arrays:
        """:attr:`BufferRows.scores` as they were at a version, only of records that were changed after it."""

    @abstractmethod
    def scored(self, buffer_id: int, exemplar_ids: Sequence[int]) -> set[int]:
        """Which of these got a score or rank after their push."""

    @abstractmethod
    def find_answer(self, buffer_id: int, key: str) -> Answer | None:
        """To the push with an idempotency key."""

    @abstractmethod
    def answers_beyond(self, buffer_id: int, but_newest: int) -> tuple[int, int]:
        """How many answers :meth:`Writing.forget_answers` would delete, and their bytes."""

    @abstractmethod
    def known_files(self) -> KnownFiles:
        """What should lie on the disk."""

    @abstractmethod
    def known_stems(self, stems: Collection[str]) -> set[str]:
        """Which of these the index speaks of."""

    @abstractmethod
    def not_noted(self, parts: Iterable[Part]) -> list[Part]:
        """Those of which the index does not say what they say: the change that wrote them was not committed."""


class Writing(Reading):
    """A transaction that changes the index.

    Every method raises ``StorageError`` where it cannot be written. All of it is undone then.
    """

    changed_to: int | None
    """The number that the index has once this is committed; None where it is not counted."""

    # Buffers

    @abstractmethod
    def insert_buffer(self, config: BufferConfig, **figures: int) -> BufferEntry:
        """Make a buffer, empty unless ``figures`` (fields of :class:`BufferEntry`) say otherwise; gives it its id."""

    @abstractmethod
    def update_figures(self, old_version: int, entry: BufferEntry) -> None:
        """Write a buffer's counters, and nothing of its settings.

        Raises:
            StorageError: it is not at ``old_version``: somebody else has changed it.
        """

    @abstractmethod
    def update_settings(self, config: BufferConfig) -> None:
        """Write a buffer's settings."""

    @abstractmethod
    def delete_buffer(self, buffer_id: int) -> list[str]:
        """Delete all that is said of a buffer; returns the stems of segments that no buffer consists of any more."""

    # Segments

    @abstractmethod
    def write_part(self, buffer_id: int, segment_id: int | None, part: Part) -> int:
        """Note what was written to a segment, None for a new one; returns the segment's id."""

    @abstractmethod
    def write_parts(self, buffer_id: int, parts: Iterable[Part]) -> None:
        """Note what was written to new segments of a new buffer."""

    @abstractmethod
    def share_segment(self, buffer_id: int, segment_id: int, dead: Sequence[int]) -> None:
        """Make a sealed segment part of another buffer, which does not hold those of its records that are dead."""

    @abstractmethod
    def drop_segments(self, buffer_id: int, states: Iterable[SegmentState]) -> list[str]:
        """Take segments out of a buffer; returns the stems of those that no buffer consists of any more."""

    @abstractmethod
    def insert_deaths(self, buffer_id: int, dead: Arrays | Rows, versions: NDArray[np.uint64]) -> None:
        """Note that records have died, ``(N,)``, and at which version each of them did."""

    # Classes, snapshots, scores, answers

    @abstractmethod
    def insert_classes(self, buffer_id: int, class_ids: Iterable[int]) -> None:
        """Note classes that a buffer has been offered for the first time."""

    @abstractmethod
    def insert_snapshot(self, buffer_id: int, snapshot: Snapshot) -> None:
        """Note a snapshot."""

    @abstractmethod
    def delete_snapshot(self, buffer_id: int, name: str) -> int:
        """Returns how many there were of that name, 0 or 1."""

    @abstractmethod
    def rescore(
        self,
        buffer_id: int,
        version: int,
        old: Rows,
        score: NDArray[np.float32],
        rank: NDArray[np.uint32],
        snapshot_versions: Sequence[int],
    ) -> int:
        """Note new scores and ranks from a version on, and keep the old ones as far as snapshots show them.

        Args:
            old: ``exemplar_id``, ``score`` and ``rank`` as they were.
            snapshot_versions: of the snapshots there are, ascending.

        Returns:
            by how much the rows of scores have grown.
        """

    @abstractmethod
    def forget_scores(self, buffer_id: int, exemplar_ids: Iterable[int]) -> int:
        """Forget those of records that nobody can read any more; returns the rows deleted."""

    @abstractmethod
    def prune_scores(self, buffer_id: int, snapshot_versions: Sequence[int]) -> int:
        """Forget those that no snapshot and not the buffer itself shows; returns the rows deleted."""

    @abstractmethod
    def insert_answers(self, buffer_id: int, answers: Sequence[Answer], created_at: float) -> None:
        """Keep answers to pushes."""

    @abstractmethod
    def forget_answers(
        self, buffer_id: int, *, older_than: float | None = None, but_newest: int | None = None
    ) -> tuple[int, int]:
        """Delete answers to pushes: the old ones, or all but some. Returns how many, and their bytes."""


class Index(ABC):
    """What is where, for one store. All methods may be called by any thread.

    Names of segments are taken from it, and told to it when their files are gone: see
    :mod:`memory_service.store.index.intents`.
    """

    @abstractmethod
    def reading(self) -> AbstractContextManager[Reading]:
        """A transaction to read in."""

    @abstractmethod
    def writing(self, *, counted: bool = True) -> AbstractContextManager[Writing]:
        """A transaction that is durable when this returns, and undone when the block raises.

        Every change gets a number, compaction's too: one more than the last one's, in the order in which they are
        committed. So who has seen the state at a number knows by :meth:`Reading.number` whether there is more to see.

        Where the end raises ``StorageError``, the change was committed or not: ask for what it was to write, as
        :meth:`make` does, or for :meth:`Reading.not_noted`.

        Args:
            counted: what no record or file has to do with need not be, which saves a page.
        """

    def make(self, change: Callable[[Writing], T], made: Callable[[Reading], T | None]) -> T:
        """Make a change; returns what it gives.

        Args:
            made: looks for what the change makes, where that could not be told.

        Raises:
            StorageError: it was not made, or that still cannot be told.
        """
        try:
            with self.writing() as transaction:
                return change(transaction)
        except StorageError:
            with self.reading() as reading:
                found = made(reading)
            if found is None:
                raise
            return found

    @abstractmethod
    def made_here(self, since: int, to: int) -> bool:
        """Whether all changes behind ``since``, up to and with ``to``, were made through this very object."""

    @abstractmethod
    def take_stem(self) -> str:
        """A name for a segment that is made now: the index knows it already.

        Raises:
            StorageError: there is none, and the index cannot be written.
            OSError: it cannot be made sure that it is known.
        """

    @abstractmethod
    def stems_gone(self, stems: Iterable[str]) -> None:
        """Segments that were removed, or never made: their names are not needed any more."""

    @abstractmethod
    def leave_room(self, num_bytes: int) -> None:
        """What all disk limits together leave to the index beside what they count: keep to it as far as possible."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raises:
        StorageError: it cannot be written now.
        """

    @abstractmethod
    def shrink(self) -> None:
        """Give back the room of what was deleted."""

    @abstractmethod
    def settle(self) -> None:
        """Make durable what need not be after each change. What fails is logged."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""
