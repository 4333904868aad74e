"""Answers to pushes with idempotency keys, kept for those who ask again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from memory_format import ConflictError
from memory_service.store.index.base import Index, Writing
from memory_service.store.pure.change import Answer, PushKey, read_answer
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import PushAnswer

LEAST_KEPT: Final = 100
"""Answers that are kept also where the disk limit is short."""


class KeptAnswers:
    """Those of one buffer, which are kept for so many seconds."""

    def __init__(self, index: Index, buffer_id: int, seconds: float) -> None:
        self._index = index
        self._buffer_id = buffer_id
        self._seconds = seconds
        self._looked_at = 0.0
        """When old ones were last looked for, seconds since 1970."""

    def find(self, key: PushKey, digest: bytes) -> PushAnswer | None:
        """The answer to an earlier push with this key. Raises ``ConflictError`` (``idempotency_key_reused``), it held
        other records."""
        with self._index.reading(alone=True) as reading:
            found = reading.find_answer(self._buffer_id, key)
        if found is None or (found.learner_id != key.learner_id and found.digest != digest):
            # Whose keys from before they belonged to learners were is told by the records.
            return None
        if found.digest != digest:
            raise ConflictError(
                f"learner {key.learner_id!r} has used the idempotency key {key.idempotency_key!r} for another body: "
                "new records take a new key",
                code="idempotency_key_reused",
            )
        return _replayed(found)

    def keep(self, transaction: Writing, answers: Sequence[Answer], counts: IndexRows, headroom: int) -> IndexRows:
        """Note answers, and forget old ones; returns what the ledger counts then. ``headroom``: bytes of disk over the
        budget."""
        now = time.time()
        transaction.insert_answers(self._buffer_id, answers, now)
        num_bytes = counts.answer_bytes + sum(answer.num_bytes for answer in answers)
        counts = replace(counts, answers=counts.answers + len(answers), answer_bytes=num_bytes)
        # All answers are looked at for it, so not with every push.
        if now - self._looked_at > min(60.0, self._seconds):
            self._looked_at = now
            counts = self.forget(transaction, counts, older_than=now - self._seconds)
        # What answers take is missing where garbage lies before it is worth moving records for it.
        share = headroom // 8
        if counts.answer_bytes > share and counts.answers > LEAST_KEPT:
            # By half, as forgetting looks at all of them.
            fitting = counts.answers * share // (2 * counts.answer_bytes)
            counts = self.forget(transaction, counts, but_newest=max(LEAST_KEPT, fitting))
        return counts

    def forget(
        self,
        transaction: Writing,
        counts: IndexRows,
        *,
        older_than: float | None = None,
        but_newest: int | None = None,
    ) -> IndexRows:
        """Delete the old ones, or all but some; returns what the ledger counts then."""
        number, num_bytes = transaction.forget_answers(self._buffer_id, older_than=older_than, but_newest=but_newest)
        return replace(counts, answers=counts.answers - number, answer_bytes=counts.answer_bytes - num_bytes)

    def counts_without(self, counts: IndexRows) -> IndexRows:
        """What the ledger would count, were all forgotten but the newest."""
        with self._index.reading() as reading:
            number, num_bytes = reading.answers_beyond(self._buffer_id, LEAST_KEPT)
        return replace(counts, answers=counts.answers - number, answer_bytes=counts.answer_bytes - num_bytes)


def _replayed(found: Answer) -> PushAnswer:
    return PushAnswer(read_answer(found.answer), replayed=True)
