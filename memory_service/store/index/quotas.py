"""What all buffers of a store may have together, in SQL: so it holds for whichever process changes the index.

Who takes of it does so in the transaction that makes the change, and holds a row to its end: the store's for budgets, a
learner's for its bytes. All take what they hold in one order: their buffer's row, segments', the store's, learners'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import sqlalchemy as sa

from memory_format import BudgetError
from memory_service.store.index import tables
from memory_service.store.index.reading import BufferEntry, Reading, unanswered
from memory_service.store.index.writing import Writing
from memory_service.store.pure.model import BufferConfig, Options


def expect_budget(reading: Reading, options: Options, config: BufferConfig) -> None:
    """Raises ``BudgetError`` (``quota_exceeded``): with these settings of a buffer, new or not, the budgets of all come
    to more than ``total_budget_bytes``, each at the most that it may grow to. One that does not grow is not refused."""
    limit = options.total_budget_bytes
    if limit is None:
        return
    most = {entry.config.name: entry.config.most_bytes for entry in reading.buffers()}
    before, wanted = most.pop(config.name, 0), config.most_bytes
    free = limit - sum(most.values())
    if before < wanted and free < wanted:
        free = max(0, free)
        raise BudgetError(
            f"a budget of up to {wanted} bytes is asked for, {free} of the {limit} that all buffers may have together "
            "are free: ask for less, give one that grows a max_budget_bytes, or delete buffers",
            code="quota_exceeded",
            requested_bytes=wanted,
            free_bytes=free,
            limit=limit,
        )


def claim_budget(transaction: Writing, options: Options, config: BufferConfig) -> None:
    """The same in the transaction that is about to write those settings: nobody else's comes in between."""
    if options.total_budget_bytes is not None:
        hold_store(transaction)
        expect_budget(transaction, options, config)


def hold_store(transaction: Writing) -> None:
    """Nobody else does so before this transaction has ended."""
    transaction.connection.execute(_HOLD_STORE).all()


def insert_buffer(transaction: Writing, options: Options, config: BufferConfig, **figures: int) -> BufferEntry:
    """As :meth:`Writing.insert_buffer`, where the budget has room. Raises as :func:`expect_budget`."""
    claim_budget(transaction, options, config)
    return transaction.insert_buffer(config, **figures)


class RacedError(BudgetError):
    """There was room for a learner's records when it was looked for, and others were faster."""

    default_code = "learner_quota_exceeded"


def learner_bytes(reading: Reading, learner_ids: Iterable[str]) -> dict[str, int]:
    """What records of these learners are charged in all buffers together, where they have any."""
    found = reading.rows_among(sa.select(_L.learner_id, _L.num_bytes), _L.learner_id, sorted(learner_ids))
    return {row.learner_id: row.num_bytes for row in found}


def counted_learners(reading: Reading) -> dict[str, int] | None:
    """The same of all learners; None: nobody has kept count."""
    if not reading.connection.execute(sa.select(tables.store.c.learners_counted)).scalar_one():
        return None
    return {row.learner_id: row.num_bytes for row in reading.connection.execute(sa.select(_L.learner_id, _L.num_bytes))}


def charge_learners(transaction: Writing, more: Mapping[str, int], limit: int | None) -> None:
    """Add to what learners have, or take away, with the last statements of a transaction that changes their records.

    Where one comes to have more than the limit by this, the transaction fails with :class:`RacedError`, at its end at
    the latest. None = there is none.
    """
    for learner_id, num_bytes in sorted(more.items()):
        # The database checks a row that is to be inserted even where there is one already: none has less than nothing.
        statement = _GROW if num_bytes > 0 else _LESSEN
        values = {"of": learner_id, "more": num_bytes}
        transaction.connection.execute(statement, values | ({"most": limit} if num_bytes > 0 else {}))


def count_learners(
    transaction: Writing, totals: Mapping[str, int], numbers: Mapping[str, tuple[int, int]] | None
) -> bool:
    """Note what all records of each learner come to; returns whether it was noted.

    Args:
        numbers: of the buffers that were added up (:meth:`Reading.numbers`): nothing is noted where others have changed
            one since. None: there are no others.
    """
    if numbers is not None:
        hold_store(transaction)
        # Whose change is not seen below adds what it makes of them behind this.
        transaction.connection.execute(_HOLD_LEARNERS)
        if transaction.numbers() != numbers:
            return False
    transaction.connection.execute(_COUNTED)
    transaction.connection.execute(tables.learner_bytes.delete())
    transaction.insert(tables.learner_bytes, [{"learner_id": id_, "num_bytes": n} for id_, n in sorted(totals.items())])
    return True


def forget_learners(connection: sa.Connection) -> None:
    """Nobody keeps count from here on."""
    connection.execute(tables.learner_bytes.delete())
    connection.execute(tables.store.update().values(learners_counted=False))


WITHIN: Final = "within_learner_quota"
"""The constraint that :class:`RacedError` comes of."""

_L = tables.learner_bytes.c
_GROW = unanswered(
    sa.text(
        "INSERT INTO learner_bytes (learner_id, num_bytes, most_bytes) VALUES (:of, :more, :most) "
        "ON CONFLICT (learner_id) DO UPDATE "
        "SET num_bytes = learner_bytes.num_bytes + excluded.num_bytes, most_bytes = excluded.most_bytes"
    )
)
_LESSEN = unanswered(
    sa.text("UPDATE learner_bytes SET num_bytes = num_bytes + :more, most_bytes = NULL WHERE learner_id = :of")
)
_COUNTED = tables.store.update().where(~tables.store.c.learners_counted).values(learners_counted=True)
_HOLD_STORE = sa.select(tables.store.c.id).with_for_update()
_HOLD_LEARNERS = unanswered(sa.text("LOCK TABLE learner_bytes IN SHARE ROW EXCLUSIVE MODE"))
