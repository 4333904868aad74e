"""What a contestant of the storage benchmark is.

What each does for a sample is the same work: draw ``count`` records uniformly with replacement, and hold their
bytes in a form that can be sent on or decoded.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.common.page_cache import forget
from benchmarks.common.records import Batch
from benchmarks.common.rounds import timed

Read = Callable[[int], float]
"""Draws a batch of that many records and returns the seconds that it took."""


PIXELS_NOT_MEDIUM = "pixels are six times the encoded bytes, 12 GB"
PIXELS_NOT_MANY = "small records are noise, no pictures"


class Peer(abc.ABC):
    """One contestant, with a directory of its own.

    Args:
        directory: made by the contestant; everything that it stores is below it.
        capacity: the most records that will be stored.
        max_body: the longest body, in bytes.
    """

    name: ClassVar[str]
    note: ClassVar[str] = ""
    """What a reader of the table has to know."""
    on_disk: ClassVar[bool] = True
    not_medium: ClassVar[str] = ""
    """Why it does not take part with 100,000 records of 20 kB; empty where it does."""
    not_many: ClassVar[str] = ""
    """The same with a million small records."""

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        self.directory = directory
        self.capacity = capacity
        self.max_body = max_body
        self.count = 0
        directory.mkdir(parents=True, exist_ok=True)
        self.rng = np.random.default_rng(0)

    def contents(self, batch: Batch) -> Sequence[bytes]:
        """What this contestant stores of a batch, one string a record."""
        return batch.bodies

    @abc.abstractmethod
    def push(self, batch: Batch) -> None:
        """Store a batch, on disk when it returns."""

    def time_push(self, batch: Batch) -> float:
        """Seconds of a push. The forms that the contestant takes are made before the clock starts."""
        self.contents(batch)
        return timed(lambda: self.push(batch))

    def fill(self, batch: Batch) -> None:
        """As :meth:`push`, where nobody waits for the disk."""
        self.push(batch)

    @abc.abstractmethod
    def sample(self, count: int) -> object:
        """Draw a batch."""

    @abc.abstractmethod
    def contents_of(self, sampled: object) -> list[bytes]:
        """The bytes of each record in what :meth:`sample` gave."""

    def drawn_contents(self, count: int) -> list[bytes]:
        """Draw a batch and give its records' bytes."""
        return self.contents_of(self.sample(count))

    def reads(self) -> dict[str, Read]:
        """The ways to draw a batch, by the name that tables show."""
        return {self.name: lambda count: timed(lambda: self.sample(count))}

    def forget(self) -> None:
        """Drop what the page cache holds of this contestant."""
        forget(self.directory)

    def close(self) -> None:  # noqa: B027 - some have nothing to close
        """Release files and processes."""
