"""How much room a buffer's files and rows may take, what a change will take of it, and what all buffers may promise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from memory_format import BudgetError
from memory_format.header import HEADER_DTYPE
from memory_service.store.learner_quota import LearnerQuota
from memory_service.store.pure import ledger
from memory_service.store.pure.change import Change
from memory_service.store.pure.model import BufferConfig, Options
from memory_service.store.segments import appending
from memory_service.store.segments.appending import OpenSegment, added_bytes
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
    return 0.0 if num_bytes < appending.SMALLEST_SEALED else frame_bytes(0, ()) / num_bytes


def moving_room(config: BufferConfig, options: Options) -> int:
    """Bytes that pushes leave free: without room for a segment's records none can be rewritten any more."""
    full = segment_bytes(config, options)
    return max(0, min(int(1.25 * full * (1 + frame_overhead(full))), headroom(config) // 4))


def tidy_reserve(config: BufferConfig, options: Options) -> int:
    """Bytes that are kept free for the next push. Where there is little headroom, garbage must have the larger part of
    it: else all of it is moved for ever."""
    room = headroom(config)
    return min(max(room // 8, 2 * segment_bytes(config, options)), room // 2)


def written_bytes(
    growing: OpenSegment | None, lengths: Sequence[int], learner_ids: Iterable[str], full: int
) -> tuple[int, int]:
    """How many segments records may go to, and the bytes that they add to those and to the index: upper bounds."""
    if not lengths:
        return 0, 0
    learner_bytes = sum(len(learner) + 4 for learner in set(learner_ids))
    number = 2 + sum(lengths) // full
    headers = 2 * HEADER_DTYPE.itemsize * len(lengths) + number * (ledger.OPEN_ROW + 4 * learner_bytes)
    return number, headers + added_bytes(growing, lengths, learner_bytes, full)


def needed(
    change: Change, before: BufferConfig, options: Options, growing: OpenSegment | None, learner_ids: Iterable[str]
) -> int:
    """An upper bound of what a change adds to the disk.

    Args:
        before: the settings that it changes.
        growing: the open segment that its records go to.
        learner_ids: of its records.
    """
    lengths, full = change.new["length"].tolist(), segment_bytes(before, options)
    number, total = written_bytes(growing, lengths, learner_ids, full)
    total += ledger.SEGMENT_ROW * number
    total += ledger.DEATH_ROW * len(change.dead)
    total += ledger.SCORE_ROW * 2 * len(change.rescored) + ledger.REVISION_ROW * len(change.revised)
    total += ledger.CLASS_ROW * len(change.classes)
    total += ledger.all_name_bytes(change.names.values()) + ledger.words_bytes(change.words)
    total += sum(answer.num_bytes for answer in change.answers)
    total += ledger.SNAPSHOT_ROW * (change.snapshot is not None)
    total += ledger.PHASE_ROW * (change.joins is not None)
    more_words = len(change.config.description.encode()) - len(before.description.encode())
    return total + max(0, ledger.LOOSE * more_words)


class Quota:
    """The sum of all budgets, each counted at the most that it may grow to.

    Args:
        limit: None: as much as anybody likes.
        learner_limit: see :class:`LearnerQuota`.
        left: called with the bytes that all disk limits together leave to the store itself, whenever they change.
    """

    def __init__(self, limit: int | None, left: Callable[[int], object], *, learner_limit: int | None = None) -> None:
        self.learners = LearnerQuota(learner_limit)
        self._limit = limit
        self._left = left
        self._lock = threading.Lock()
        self._most: dict[str, int] = {}
        self._shares: dict[str, int] = {}

    def note(self, config: BufferConfig) -> None:
        """A buffer that is there, whatever the limit says by now."""
        self._set(config.name, config.most_bytes, ledger.store_share(config))

    def drop(self, name: str) -> None:
        self._set(name, None, None)

    def _set(self, name: str, most: int | None, share: int | None) -> None:
        with self._lock:
            for values, value in ((self._most, most), (self._shares, share)):
                values.pop(name, None)
                if value is not None:
                    values[name] = value
            self._left(sum(self._shares.values()))

    @contextmanager
    def claim(self, config: BufferConfig) -> Iterator[None]:
        """Around a change that gives a buffer these settings: what is more than it had counts from here on, and where
        the change fails, what it had. Raises ``BudgetError`` (``quota_exceeded``)."""
        name, most, share = config.name, config.most_bytes, ledger.store_share(config)
        with self._lock:
            before, share_before = self._most.get(name), self._shares.get(name)
            others = sum(self._most.values()) - (before or 0)
            if self._limit is not None and most > (before or 0) and others + most > self._limit:
                free = max(0, self._limit - others)
                raise BudgetError(
                    f"a budget of up to {most} bytes is asked for, {free} of the {self._limit} that all buffers may "
                    "have together are free: ask for less, give one that grows a max_budget_bytes, or delete buffers",
                    code="quota_exceeded",
                    requested_bytes=most,
                    free_bytes=free,
                    limit=self._limit,
                )
        self._set(name, max(most, before or 0), min(share, share_before or 0))
        try:
            yield
        except BaseException:
            self._set(name, before, share_before)
            raise
        self.note(config)
