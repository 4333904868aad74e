"""Answers to pushes in SQL: which are old, and what the ledger counts for them."""

from __future__ import annotations

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.pure import ledger


def answer_bytes() -> sa.ColumnElement[int]:
    """:func:`ledger.answer_bytes` of a row."""
    p = tables.pushes.c
    named = sa.func.length(p.learner_id, type_=sa.Integer) + sa.func.length(p.idempotency_key, type_=sa.Integer)
    content = named + sa.func.length(p.answer, type_=sa.Integer)
    content += ledger.ANSWER_COLUMNS
    pages = content // (ledger.OWN_PAGE - 4) + 1
    return sa.case(
        (content <= ledger.ANSWER_WITHIN, ledger.LOOSE * content),
        else_=ledger.LOOSE * ledger.ANSWER_WITHIN + ledger.OWN_PAGE * pages,
    )


def counted_answers(condition: sa.ColumnElement[bool]) -> sa.Select[int, int]:
    """How many rows of ``pushes``, and the bytes that the ledger counts for them."""
    total = sa.cast(sa.func.coalesce(sa.func.sum(answer_bytes()), 0), sa.BigInteger)
    return (
        sa.select(sa.func.count().label("number"), total.label("num_bytes")).select_from(tables.pushes).where(condition)
    )


def old_answers(buffer_id: int, older_than: float | None, but_newest: int | None) -> sa.ColumnElement[bool]:
    """Which rows of ``pushes`` are to go."""
    p = tables.pushes.c
    condition = p.buffer_id == buffer_id
    if older_than is not None:
        condition &= p.created_at < older_than
    if but_newest is not None:
        newest = sa.select(p.learner_id, p.idempotency_key).where(p.buffer_id == buffer_id)
        newest = newest.order_by(p.created_at.desc(), p.learner_id, p.idempotency_key).limit(but_newest)
        condition &= sa.tuple_(p.learner_id, p.idempotency_key).not_in(newest)
    return condition
