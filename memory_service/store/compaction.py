"""Which segments to rewrite so that dead bytes stay in proportion. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SLACK_BYTES = 1024 * 1024
MAX_MOVED_BYTES = 64 * 1024 * 1024
"""Live bytes moved in one go: bounds the pause of the push that pays for it."""


@dataclass
class SegmentState:
    """A segment file and what of it is alive."""

    id: int
    name: str
    file_bytes: int
    live_records: int = 0
    live_bytes: int = 0
    """Sum of the charges of its live records."""
    damaged: bool = False
    """A record in it failed its CRC: its live part cannot be moved."""

    @property
    def dead_bytes(self) -> int:
        """Evicted records, and the file's own frame: a segment of one small record is mostly dead."""
        return self.file_bytes - self.live_bytes


def dead_limit(live_bytes: int) -> int:
    """Dead bytes that a buffer may carry."""
    return live_bytes // 2 + SLACK_BYTES


def choose(segments: Iterable[SegmentState]) -> list[SegmentState]:
    """Segments to rewrite now, the emptiest first; none while the buffer is within its limit.

    Enough are taken to halve the excess, so that not every push compacts. Counting the frames as dead means
    that many small pushes are merged by the same rule.
    """
    # What cannot be moved is left out of the sums: it would call for compaction for ever.
    movable = [segment for segment in segments if not segment.damaged]
    live = sum(segment.live_bytes for segment in movable)
    dead = sum(segment.dead_bytes for segment in movable)
    limit = dead_limit(live)
    if dead <= limit:
        return []
    chosen: list[SegmentState] = []
    moved = 0
    for segment in sorted(movable, key=lambda s: (-s.dead_bytes / s.file_bytes, s.id)):
        if dead <= limit // 2 or (chosen and moved + segment.live_bytes > MAX_MOVED_BYTES):
            break
        chosen.append(segment)
        moved += segment.live_bytes
        dead -= segment.dead_bytes
    return chosen
