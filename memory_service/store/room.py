"""How much room a buffer's files and rows may take, and what a change will take of it."""

from __future__ import annotations

from collections.abc import Iterable

from memory_format.header import HEADER_DTYPE
from memory_service.store.pure import ledger
from memory_service.store.pure.change import Change
from memory_service.store.pure.model import BufferConfig, Options
from memory_service.store.segments import base
from memory_service.store.segments.base import OpenSegment, added_bytes
from memory_service.store.segments.layout import BODY_AT, frame_bytes

SMALLEST_SEGMENT = 32 * 1024
NEW_FILE = BODY_AT + ledger.SEGMENT_ROW + ledger.OPEN_ROW


def headroom(config: BufferConfig) -> int:
    """Bytes of disk over the budget."""
    return config.disk_limit_bytes - config.budget_bytes


def segment_bytes(config: BufferConfig, options: Options) -> int:
    """Bodies after which a segment is full: few against the disk over the budget, in which it is rewritten."""
    return min(options.segment_bytes, max(SMALLEST_SEGMENT, headroom(config) // 16))


def frame_overhead(num_bytes: int) -> float:
    """Bytes of frame for each byte moved to a segment of that many, which is sealed one day."""
    return 0.0 if num_bytes < base.SMALLEST_SEALED else frame_bytes(0, ()) / num_bytes


def moving_room(config: BufferConfig, options: Options) -> int:
    """Bytes that pushes leave free: without room for a segment's records none can be rewritten any more."""
    full = segment_bytes(config, options)
    return max(0, min(int(1.25 * full * (1 + frame_overhead(full))), headroom(config) // 4))


def tidy_reserve(config: BufferConfig, options: Options) -> int:
    """Bytes that are kept free for the next push. Where there is little headroom, garbage must have the larger part of
    it: else all of it is moved for ever."""
    room = headroom(config)
    return min(max(room // 8, 2 * segment_bytes(config, options)), room // 2)


def needed(
    change: Change, before: BufferConfig, options: Options, growing: OpenSegment | None, learner_ids: Iterable[str]
) -> int:
    """An upper bound of what a change adds to the disk.

    Args:
        before: the settings that it changes.
        growing: the open segment that its records go to.
        learner_ids: of its records.
    """
    lengths = change.new["length"].tolist()
    total = 0
    if lengths:
        learner_bytes = sum(len(learner) + 4 for learner in set(learner_ids))
        full = segment_bytes(before, options)
        num_parts = 2 + sum(lengths) // full
        total += added_bytes(growing, lengths, learner_bytes, full)
        total += 2 * HEADER_DTYPE.itemsize * len(lengths)
        total += num_parts * (ledger.SEGMENT_ROW + ledger.OPEN_ROW + 4 * learner_bytes)
    total += ledger.DEATH_ROW * len(change.dead)
    total += ledger.SCORE_ROW * 2 * len(change.rescored)
    total += ledger.CLASS_ROW * len(change.classes)
    total += sum(answer.num_bytes for answer in change.answers)
    total += ledger.SNAPSHOT_ROW * (change.snapshot is not None)
    more_words = len(change.config.description.encode()) - len(before.description.encode())
    return total + max(0, ledger.LOOSE * more_words)
