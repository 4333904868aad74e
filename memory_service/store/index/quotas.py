"""What all buffers of a store may have together, in SQL: so it holds for whichever process changes the index.

Who takes of it looks in the transaction that takes, behind a lock that it holds to its end. That is the last lock but
for those that are a buffer's own: buffer, segments, store.
"""

from __future__ import annotations

import sqlalchemy as sa

from memory_format import BudgetError
from memory_service.store.index import tables
from memory_service.store.index.reading import BufferEntry, Reading
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
        transaction.connection.execute(_HOLD_STORE).all()
        expect_budget(transaction, options, config)


def insert_buffer(transaction: Writing, options: Options, config: BufferConfig, **figures: int) -> BufferEntry:
    """As :meth:`Writing.insert_buffer`, where the budget has room. Raises as :func:`expect_budget`."""
    claim_budget(transaction, options, config)
    return transaction.insert_buffer(config, **figures)


_HOLD_STORE = sa.select(tables.store.c.id).with_for_update()
