"""Answers to pushes with idempotency keys, kept for those who ask again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypedDict

from memory_format import ConflictError
from memory_service.store.index.base import Found, Index, Wanted, Writing
from memory_service.store.pure.change import Answer, PushKey, read_answer
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import PushAnswer

LEAST_KEPT: Final = 100
"""Answers that are kept also where the disk limit is short."""


class _Which(TypedDict, total=False):
    """One of the two: see :func:`memory_service.store.index.reading.old_answers`."""

    older_than: float
    but_newest: int


class _Old(NamedTuple):
    """Answers that are to go, and what there is of them."""

    which: _Which
    number: int
    num_bytes: int


class KeptAnswers:
    """Those of one buffer, which are kept for so many seconds."""

    def __init__(self, index: Index, buffer_id: int, seconds: float) -> None:
        self._index = index
        self._buffer_id = buffer_id
        self._seconds = seconds
        self._looked_at = 0.0
        """When old ones were last looked for, seconds since 1970."""
        self._but_newest: int | None = None
        """How many are to stay where they take too much."""
        self._old: _Old | None = None
        """What is to go with the next answer that is kept."""

    def changed_elsewhere(self) -> None:
        """Others may have kept and forgotten some: what was counted does not count."""
        self._old = self._but_newest = None

    def wanted(self, keys: Sequence[PushKey]) -> Wanted | None:
        """What to ask for those to pushes with these keys; None: nothing. All answers are looked at for old ones, so
        not with every push; and then beside those that are asked for."""
        if not keys:
            return None
        now, older_than, but_newest = time.time(), None, None
        if self._old is None:
            but_newest = self._but_newest
            if but_newest is None and now - self._looked_at > min(60.0, self._seconds):
                older_than = now - self._seconds
        return Wanted(tuple(keys), older_than, but_newest)

    def find(self, wanted: Wanted | None, found: Found | None) -> Mapping[PushKey, Answer]:
        """The answers to earlier pushes with the keys that are wanted; ``found`` where they were asked for already. For
        the holder of the buffer."""
        if wanted is None:
            return {}
        if found is None:
            with self._index.reading(alone=True) as reading:
                found = reading.find_answers(self._buffer_id, wanted)
        which: _Which = {}
        if wanted.older_than is not None:
            which = {"older_than": wanted.older_than}
        elif wanted.but_newest is not None:
            which = {"but_newest": wanted.but_newest}
        if which:
            self._looked_at = time.time()
            self._old = _Old(which, found.number, found.num_bytes)
        return found.answers

    def keep(self, transaction: Writing, answers: Sequence[Answer], counts: IndexRows, headroom: int) -> IndexRows:
        """Note answers that were looked for, and forget the old ones that were found meanwhile; returns what the ledger
        counts then. ``headroom``: bytes of disk over the budget."""
        # Nobody else changes answers of this buffer in between: what was counted is what goes.
        old, self._old, self._but_newest = self._old, None, None
        if old is not None and old.number:
            transaction.delete_answers(self._buffer_id, **old.which)
            counts = _less(counts, old.number, old.num_bytes)
        transaction.insert_answers(self._buffer_id, answers, time.time())
        counts = _less(counts, -len(answers), -sum(answer.num_bytes for answer in answers))
        # What answers take is missing where garbage lies before it is worth moving records for it.
        share = headroom // 8
        if counts.answer_bytes > share and counts.answers > LEAST_KEPT:
            # By half, as forgetting looks at all of them.
            self._but_newest = max(LEAST_KEPT, counts.answers * share // (2 * counts.answer_bytes))
        return counts

    def forget(self, transaction: Writing, counts: IndexRows, *, but_newest: int) -> IndexRows:
        """Delete all but some; returns what the ledger counts then."""
        self._old = None
        return _less(counts, *transaction.forget_answers(self._buffer_id, but_newest=but_newest))

    def counts_without(self, counts: IndexRows) -> IndexRows:
        """What the ledger would count, were all forgotten but the newest."""
        with self._index.reading() as reading:
            return _less(counts, *reading.answers_beyond(self._buffer_id, LEAST_KEPT))


def _less(counts: IndexRows, number: int, num_bytes: int) -> IndexRows:
    return replace(counts, answers=counts.answers - number, answer_bytes=counts.answer_bytes - num_bytes)


def replayed(found: Answer | None, key: PushKey, digest: bytes) -> PushAnswer | None:
    """What answers a push, where there is an answer to an earlier one with its key. Raises ``ConflictError``
    (``idempotency_key_reused``), it held other records."""
    if found is None or (found.learner_id != key.learner_id and found.digest != digest):
        # Whose keys from before they belonged to learners were is told by the records.
        return None
    if found.digest != digest:
        raise ConflictError(
            f"learner {key.learner_id!r} has used the idempotency key {key.idempotency_key!r} for another body: "
            "new records take a new key",
            code="idempotency_key_reused",
        )
    return PushAnswer(read_answer(found.answer), replayed=True)
