"""What a check of a store has found, and a repair has done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and what is looked at."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be."""

    kind: str
    where: str
    words: str


@dataclass
class Report:
    """What was found."""

    segments: int = 0
    records: int = 0
    """In all segments, dead ones too."""
    bytes_checked: int = 0
    buffers: dict[str, int] = field(default_factory=dict)
    """Name -> live records."""
    problems: list[Problem] = field(default_factory=list)
    lost: dict[str, list[int]] = field(default_factory=dict)
    """Buffer -> ids of live records that cannot be read."""
    lost_in_snapshots: dict[str, list[int]] = field(default_factory=dict)
    """Buffer -> ids of records that only snapshots hold and that cannot be read."""
    unknown_records: int = 0
    """Records of segments so damaged that not even their ids can be read."""
    foreign: list[str] = field(default_factory=list)
    """Names in the directory of segments that are none of the store's: left alone, and no problem."""
    gone: int = 0
    """Segments that a service has removed since the check began."""
    quarantined: list[str] = field(default_factory=list)
    """Files that a repair has moved, and copies that it has made."""
    adopted: list[str] = field(default_factory=list)
    """Sealed segments that the index did not know, or called open, and that a repair has taken in."""
    recovered: dict[str, int] = field(default_factory=dict)
    """Buffer -> records of theirs that it did not hold before."""
    made: list[str] = field(default_factory=list)
    """Buffers that the index did not know."""
    evicted: dict[str, list[int]] = field(default_factory=dict)
    """Buffer -> ids of records that its budget has no room for, once the others are back."""
    raised: dict[str, int] = field(default_factory=dict)
    """Buffer -> the disk limit that it was given, because what was recovered does not fit its own."""
    nameless: list[str] = field(default_factory=list)
    """Segments that do not say whose they are, left in quarantine."""
    unknown: list[str] = field(default_factory=list)
    """What cannot be known after a recovery, in words."""

    @property
    def sound(self) -> bool:
        return not self.problems

    def note(self, kind: str, where: str, words: str) -> None:
        self.problems.append(Problem(kind, where, words))
