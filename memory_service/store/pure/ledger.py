"""What a buffer takes on disk: its files to the byte, its rows of the index by the page.

SQLite packs rows into pages that are partly empty, so a row is counted at more than its own bytes. The figures
are upper bounds; tests/memory_service/test_ledger.py holds them against real databases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from memory_format.header import HEADER_DTYPE
from memory_service.store.pure.model import BufferConfig
from memory_service.store.pure.words import Words

BUFFER_ROW: Final = 1024
SEGMENT_ROW: Final = 192
"""Of the tables ``segments`` and ``buffer_segments`` together."""
DEATH_ROW: Final = 32
SCORE_ROW: Final = 48
REVISION_ROW: Final = 64
SNAPSHOT_ROW: Final = 256
CLASS_ROW: Final = 24
OPEN_ROW: Final = 64
"""Without headers and learner ids: see :func:`open_row_bytes`."""
LOOSE: Final = 2
"""Bytes for each byte of a description."""
ANSWER_COLUMNS: Final = 41
"""Of the table ``pushes``, without learner, key and answer."""
PHASE_ROW: Final = 192
"""With the longest of learner ids."""
NAME_COLUMNS: Final = 20
"""Of the table ``class_names``, without the name."""
ANSWER_WITHIN: Final = 230
"""Bytes of a row of ``pushes`` that stay in its page; of a longer one some 103 do, the rest goes to pages of its
own (sqlite.org/fileformat2.html, 1.6)."""
OWN_PAGE: Final = 1024

_PAGE: Final = 1024

WAL_BYTES: Final = 256 * 1024
"""How long the write-ahead log gets before it is carried over; one transaction may make it longer."""
LEAST_WAL_BYTES: Final = 16 * 1024
"""Where the disk limits leave little room to the store."""
EMPTY_BYTES: Final = 72 * 1024
"""An empty database, and the log's index."""
LEAST_STORE_BYTES: Final = EMPTY_BYTES + 2 * LEAST_WAL_BYTES
"""Below it, the files of the store itself do not fit."""
STORE_BYTES: Final = 2 * WAL_BYTES + 128 * 1024
"""Of a store without records: the log, its index and an empty database, and a transaction beyond the log."""


def store_share(config: BufferConfig) -> int:
    """What of a disk limit is left to the store itself, its write-ahead log first of all: where the limit leaves room
    for it, all files of a store with one buffer together stay within that buffer's limit."""
    headroom = max(0, config.disk_limit_bytes - config.budget_bytes)
    least = LEAST_STORE_BYTES if headroom >= 2 * LEAST_STORE_BYTES else 0
    return min(STORE_BYTES, max(headroom // 4, least))


@dataclass(frozen=True)
class IndexRows:
    """Rows of the index that a buffer has, beside its own and those of its segments."""

    scores: int = 0
    revisions: int = 0
    snapshots: int = 0
    classes: int = 0
    phases: int = 0
    answers: int = 0
    answer_bytes: int = 0
    """Sum of :func:`answer_bytes`."""
    name_bytes: int = 0
    """Sum of :func:`name_bytes`."""
    words_bytes: int = 0
    """As :func:`words_bytes` has it."""
    description_bytes: int = 0

    def num_bytes(self, *, segments: int, dead: int) -> int:
        """Bytes in all, but those of open segments' headers.

        Args:
            segments: of the buffer.
            dead: records in them that the buffer does not hold.
        """
        # A row of a little more than half a page has the page for itself.
        loose = LOOSE * self.description_bytes
        return (
            BUFFER_ROW
            + SEGMENT_ROW * segments
            + DEATH_ROW * dead
            + SCORE_ROW * self.scores
            + REVISION_ROW * self.revisions
            + SNAPSHOT_ROW * self.snapshots
            + CLASS_ROW * self.classes
            + PHASE_ROW * self.phases
            + self.answer_bytes
            + self.name_bytes
            + self.words_bytes
            + loose
        )


def open_row_bytes(num_records: int, learners: Iterable[str]) -> int:
    """Of the row that a push adds for an open segment: headers, and learner ids that are new to it."""
    content = HEADER_DTYPE.itemsize * num_records + sum(len(learner) + 4 for learner in learners)
    # Pages may be half empty; of a long row only the first and the last.
    return OPEN_ROW + content + min(content, 2 * _PAGE)


def name_bytes(name: str) -> int:
    """Of the row that has a class's name, and of its twin in the index that finds it by the name."""
    return 2 * _row_bytes(len(name.encode()) + NAME_COLUMNS)


def all_name_bytes(names: Iterable[str]) -> int:
    """Of the rows of several."""
    return sum(map(name_bytes, names))


def words_bytes(words: Words | None) -> int:
    """Of the row that has the words of a vocabulary; 0 without any."""
    return 0 if words is None else _row_bytes(len(words.packed) + NAME_COLUMNS)


def answer_bytes(key: int, answer: int) -> int:
    """Of the row that keeps the answer to a push, given its length, and that of learner and key together;
    index/answers.py says the same in SQL."""
    return _row_bytes(key + answer + ANSWER_COLUMNS)


def _row_bytes(content: int) -> int:
    if content <= ANSWER_WITHIN:
        return LOOSE * content
    return LOOSE * ANSWER_WITHIN + OWN_PAGE * (content // (OWN_PAGE - 4) + 1)
