"""How much room a buffer's files and rows may take, what a change will take of it, and what all buffers may promise."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from memory_format import StorageError
from memory_format.header import HEADER_DTYPE
from memory_service.store.index import quotas
from memory_service.store.index.base import Index
from memory_service.store.pure import ledger
from memory_service.store.pure.change import Change
from memory_service.store.pure.model import BufferConfig, Options
from memory_service.store.pure.state import State
from memory_service.store.segments import appending
from memory_service.store.segments.appending import OpenSegment, added_bytes
from memory_service.store.segments.layout import BODY_AT, frame_bytes

logger = logging.getLogger(__name__)

SMALLEST_SEGMENT = 32 * 1024
NEW_FILE = BODY_AT + ledger.SEGMENT_ROW + ledger.OPEN_ROW
_TRIES: Final = 10


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


class Holding(Protocol):
    """A buffer, as far as it is counted."""

    @property
    def config(self) -> BufferConfig: ...
    @property
    def state(self) -> State: ...
    def bytes_by_learner(self) -> Mapping[str, int]:
        """Charges of what it holds now."""


class Quota:
    """What all buffers of a store may have together: see :mod:`memory_service.store.index.quotas`."""

    def __init__(self, index: Index, options: Options) -> None:
        self._index = index
        self._options = options
        self._lock = threading.Lock()
        self._shares: dict[str, int] = {}
        """What each disk limit leaves to the index."""

    def note(self, config: BufferConfig) -> None:
        """A buffer that is there."""
        self._set(config.name, ledger.store_share(config))

    def drop(self, name: str) -> None:
        self._set(name, None)

    def _set(self, name: str, share: int | None) -> None:
        with self._lock:
            self._shares.pop(name, None)
            if share is not None:
                self._shares[name] = share
            self._index.leave_room(sum(self._shares.values()))

    def count(self, buffers: Callable[[], Iterable[Holding]]) -> None:
        """Have the index know what learners hold in all buffers. Others that have it open change them meanwhile: where
        they do so without a pause, it keeps what it knows. Raises ``StorageError``."""
        if self._options.learner_bytes is None:
            return
        for _ in range(_TRIES):
            totals: Counter[str] = Counter()
            numbers = {}
            for buffer in buffers():
                # The number first: what changes between both is not taken for counted.
                numbers[buffer.config.name] = buffer.config.id, buffer.state.number or 0
                totals.update(buffer.bytes_by_learner())
            with self._index.writing() as transaction:
                if quotas.count_learners(transaction, totals, numbers if self._index.is_shared else None):
                    return
        with self._index.reading() as reading:
            if quotas.counted_learners(reading) is None:
                raise StorageError("records change faster than they are counted by learner; start it again")
        logger.info("bytes of learners are not counted anew: other replicas change the store all the time")

    @contextmanager
    def claim(self, config: BufferConfig) -> Iterator[None]:
        """Around a change that gives a buffer these settings: refused before anything is done for it, where there is no
        room; its transaction looks again (:func:`quotas.claim_budget`). Raises ``BudgetError`` (``quota_exceeded``);
        ``StorageError``."""
        if self._options.total_budget_bytes is not None:
            with self._index.reading() as reading:
                quotas.expect_budget(reading, self._options, config)
        before = self._shares.get(config.name)
        self._set(config.name, min(ledger.store_share(config), before or 0))
        try:
            yield
        except BaseException:
            self._set(config.name, before)
            raise
        self.note(config)
