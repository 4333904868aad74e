"""The index as a store sees it: what is where, in transactions that take and give the store's own types.

Implementations of :class:`Index` decide where it lies. Nothing above this package knows SQL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

from memory_format import StorageError
from memory_service.store.index.answers import Found, Wanted
from memory_service.store.index.erased import Behind
from memory_service.store.index.generation import Mark
from memory_service.store.index.reading import BufferEntry, BufferRows, Reading
from memory_service.store.index.writing import Writing

__all__ = ["BufferEntry", "BufferRows", "Found", "Index", "Reading", "Taken", "Wanted", "Writing"]

T = TypeVar("T")

NAMES: Final = 0
"""Stands for which buffers there are, in :meth:`Index.changing`."""
ERASING: Final = -1
"""And for what is being erased, and forked."""


@dataclass(frozen=True)
class Taken:
    """What is known of a buffer by who has taken it to change it.

    Attributes:
        number: of its last change; None where there are no other processes, or no such buffer any more.
        found: the answers that were wanted; None where they were not asked for yet.
    """

    number: int | None = None
    found: Found | None = None


class Index(ABC):
    """What is where, for one store. All methods may be called by any thread.

    Names of segments are taken from it, and told to it when their files are gone.
    """

    is_shared: ClassVar[bool] = False
    """Whether other processes change it, too. Then numbers of changes are of one buffer each."""
    grace_seconds: ClassVar[float] = 0.0
    """For how long a segment that nobody holds any more may be read by other processes."""
    keeps_documents: ClassVar[bool] = False
    """Whether it is where all who have the store open find receipts of erasures and reports of runs; else they are
    files."""

    @contextmanager
    def changing(self, buffer_id: int, wanted: Wanted | None = None) -> Iterator[Taken]:
        """Around all that this thread changes of a buffer, in as many transactions as it takes: no other process
        changes it meanwhile.

        Args:
            buffer_id: or :data:`NAMES`, or :data:`ERASING`.
            wanted: answers to pushes, which are told where who takes the buffer has to ask anyway.

        Raises:
            StorageError: others are at it for too long, or the index cannot be used.
        """
        yield Taken()

    def count_erasure(self) -> int:
        """Something was erased, and no row names a segment with it any more: whoever else has copies of segments is
        told. Returns the number by which they confirm that theirs are gone. Raises ``StorageError``."""
        return 0

    def behind(self, number: int) -> Sequence[Behind]:
        """Others who may still have copies of what was erased up to that number. Raises ``StorageError``."""
        return ()

    def confirm(self, writing: Writing, number: int) -> None:  # noqa: B027 - nobody else is told of it
        """This process has none."""

    def dead(self, stems: Sequence[str]) -> Mapping[str, bool]:
        """Which of some segments that were to go nobody holds, uploads or reads, for good: durable when this returns.
        And whether their names are needed no more once they are removed. Raises ``StorageError``."""
        return dict.fromkeys(stems, True)

    @abstractmethod
    def reading(self, *, alone: bool = False) -> AbstractContextManager[Reading]:
        """A transaction to read in.

        Args:
            alone: for one statement, which a database need not be told of the beginning and end of.
        """

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
    def mark(self) -> Mark:
        """Which store this is the index of, and how many changes it has seen."""

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
    def open_bodies(self, stem: str, known: int = 0) -> Sequence[bytes] | None:
        """Bodies of an open segment, in the pieces that were written, without its first ``known`` bytes, where they are
        kept here; None where no open segment has that name. Raises ``StorageError``."""

    @abstractmethod
    def begin_uploads(self, stems: Sequence[str], seconds: float) -> int:
        """Note that segments of names that were taken are uploaded for so long, which is durable when this returns;
        returns the number of that change. Raises ``StorageError``."""

    @abstractmethod
    def stems_gone(self, stems: Iterable[str]) -> None:
        """Segments that were removed, or never made: their names are not needed any more."""

    @abstractmethod
    def leaving(self) -> Sequence[str]:
        """Names of segments that nobody holds any more, and that may be there still: for a while others may read them.
        Raises ``StorageError``."""

    @abstractmethod
    def uploading(self) -> Sequence[str]:
        """Names of what is being put, or was to be put by a change that came to nothing. Raises ``StorageError``."""

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
    def scrub(self) -> None:
        """Leave nothing of what was deleted in the files of the index.

        Raises:
            BusyError: somebody reads them.
            StorageError: that failed.
        """

    @abstractmethod
    def settle(self) -> None:
        """Make durable what need not be after each change. What fails is logged."""

    def end_waiting(self) -> None:  # noqa: B027 - a file answers
        """What is done from now on is the last: where the index is elsewhere and not to be reached, whoever waits for
        an answer has a ``StorageError`` within seconds."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""
