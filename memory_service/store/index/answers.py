"""Answers to pushes in SQL: which are looked for, which are old, and what the ledger counts for them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.pure import ledger
from memory_service.store.pure.change import Answer, PushKey

_Bound = sa.BindParameter[Any]


@dataclass(frozen=True)
class Wanted:
    """Answers to look for; and beside them to count those that :meth:`Writing.delete_answers` would delete, where one
    of the two others is given."""

    keys: tuple[PushKey, ...]
    older_than: float | None = None
    but_newest: int | None = None

    def statement(self, beside: sa.Subquery | None = None) -> sa.Select[Any]:
        """What is counted and, or null, an answer that may be one of those: one row at least. Before them stands the
        row of ``beside``. Takes :meth:`parameters`."""
        return _statement(self.older_than is not None, self.but_newest is not None, beside)

    def parameters(self, buffer_id: int) -> dict[str, Any]:
        """Of the answers of a buffer."""
        named = {"learner_ids": sorted({key.learner_id for key in self.keys} | {""})}
        named |= {"keys": [key.idempotency_key for key in self.keys]}
        old = {"older_than": self.older_than, "but_newest": self.but_newest}
        return {"of": buffer_id, **named, **{name: value for name, value in old.items() if value is not None}}

    def found(self, rows: Sequence[Any]) -> Found:
        """What the rows say."""
        given = {
            PushKey(row.learner_id, row.idempotency_key): Answer(*row[-4:]) for row in rows if row.answer is not None
        }
        # From before keys belonged to learners they are nobody's.
        known = {key: given.get(key) or given.get(PushKey("", key.idempotency_key)) for key in self.keys}
        answers = {key: answer for key, answer in known.items() if answer is not None}
        return Found(answers, rows[0].old_number, rows[0].old_bytes)


@dataclass(frozen=True)
class Found:
    """What came of that.

    Attributes:
        answers: to the pushes with those keys: of the key's learner, or else of nobody.
        number, num_bytes: of the old ones, 0 where they are not counted.
    """

    answers: dict[PushKey, Answer]
    number: int = 0
    num_bytes: int = 0


@functools.cache
def _statement(older_than: bool, but_newest: bool, beside: sa.Subquery | None) -> sa.Select[Any]:
    # Made once: it is part of every push with a key, and costs more to make than to run.
    p = tables.pushes.c
    of: _Bound = sa.bindparam("of")
    named = p.learner_id.in_(sa.bindparam("learner_ids", expanding=True))
    these = (p.buffer_id == of, named, p.idempotency_key.in_(sa.bindparam("keys", expanding=True)))
    found = sa.select(p.learner_id, p.idempotency_key, p.digest, p.answer).where(*these).subquery("found")
    counted: Any = sa.select(sa.literal_column("0").label("number"), sa.literal_column("0").label("num_bytes"))
    if older_than or but_newest:
        before = sa.bindparam("older_than", type_=sa.Float) if older_than else None
        newest = sa.bindparam("but_newest", type_=sa.Integer) if but_newest else None
        counted = counted_answers(old_answers(of, before, newest))
    old = counted.subquery("old")
    columns = (
        *(beside.c if beside is not None else ()),
        old.c.number.label("old_number"),
        old.c.num_bytes.label("old_bytes"),
    )
    rows = old.outerjoin(found, sa.true())
    return sa.select(*columns, *found.c).select_from(rows if beside is None else beside.join(rows, sa.true()))


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


def old_answers(
    buffer_id: int | _Bound, older_than: float | _Bound | None, but_newest: int | _Bound | None
) -> sa.ColumnElement[bool]:
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
