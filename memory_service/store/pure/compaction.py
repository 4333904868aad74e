"""Which segment to rewrite so that everything fits the disk limit. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from memory_format import HEADER_BYTES
from memory_service.store.pure.tallies import NOTHING, SegmentState, Tally

WORTH_MOVING = 0.05
"""The least share of a file that must come free: below it, moving costs twenty bytes for each one gained."""


def choose(
    segments: Iterable[SegmentState],
    room: int,
    overhead: float,
    *,
    leaving: Mapping[int, Tally] | None = None,
    spoilt: Collection[int] = (),
) -> SegmentState | None:
    """The segment whose rewriting frees the most for each byte moved; None where none is worth it.

    Headers are counted twice: in the index, pages of an open segment's may be half empty.

    That is the greedy policy of log-structured stores (Rosenblum and Ousterhout 1992, section 3.4).

    Args:
        room: bytes that may be written before the old file goes.
        overhead: bytes of frame that come with each byte moved.
        leaving: segment id -> records that a coming change takes out. They are moved too, elsewhere, and are not
            among those that the segment holds.
        spoilt: ids of segments that cannot be moved.
    """
    left = leaving or {}

    def gain(segment: SegmentState) -> float:
        return segment.dead_bytes - overhead * segment.held.bytes

    def moved(segment: SegmentState) -> Tally:
        return segment.held + left.get(segment.id, NOTHING)

    able = [
        segment
        for segment in segments
        if segment.id not in spoilt
        and moved(segment).bytes * (1 + overhead) + HEADER_BYTES * moved(segment).records <= room
        and gain(segment) > WORTH_MOVING * segment.file_bytes
    ]
    return max(able, key=lambda s: (gain(s) / (moved(s).bytes + 1), -s.id), default=None)
