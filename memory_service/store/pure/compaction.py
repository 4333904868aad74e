"""Which segment to rewrite so that everything fits the disk limit. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memory_format import HEADER_BYTES


@dataclass
class SegmentState:
    """A segment file and what of it a buffer holds."""

    id: int
    stem: str
    file_bytes: int
    num_records: int
    sealed: bool
    live_records: int = 0
    live_bytes: int = 0
    """Sum of the charges of its live records."""
    pinned_records: int = 0
    """Records that only snapshots hold."""
    pinned_bytes: int = 0
    open_bytes: int = 0
    """What the index holds of an open segment's headers: a sealed one has them in its file."""
    leaving_records: int = 0
    """Records that a coming change takes out: of its rewriting they go elsewhere, and neither count as held."""
    leaving_bytes: int = 0
    damaged: bool = False
    """A record in it failed its CRC: it cannot be moved."""

    @property
    def held_records(self) -> int:
        return self.live_records + self.pinned_records

    @property
    def held_bytes(self) -> int:
        return self.live_bytes + self.pinned_bytes

    @property
    def dead_bytes(self) -> int:
        """What nobody can read any more, and the file's own frame."""
        return self.file_bytes + self.open_bytes - self.held_bytes

    @property
    def num_dead(self) -> int:
        """Records of it that the index notes as dead, pinned ones included."""
        return self.num_records - self.live_records


WORTH_MOVING = 0.05
"""The least share of a file that must come free: below it, moving costs twenty bytes for each one gained."""


def choose(segments: Iterable[SegmentState], room: int, overhead: float) -> SegmentState | None:
    """The segment whose rewriting frees the most for each byte moved; None where none is worth it.

    Headers are counted twice: in the index, pages of an open segment's may be half empty.

    That is the greedy policy of log-structured stores (Rosenblum and Ousterhout 1992, section 3.4).

    Args:
        room: bytes that may be written before the old file goes.
        overhead: bytes of frame that come with each byte moved.
    """

    def gain(segment: SegmentState) -> float:
        return segment.dead_bytes - overhead * segment.held_bytes

    able = [
        segment
        for segment in segments
        if not segment.damaged
        and (segment.held_bytes + segment.leaving_bytes) * (1 + overhead)
        + HEADER_BYTES * (segment.held_records + segment.leaving_records)
        <= room
        and gain(segment) > WORTH_MOVING * segment.file_bytes
    ]
    return max(able, key=lambda s: (gain(s) / (s.held_bytes + s.leaving_bytes + 1), -s.id), default=None)
