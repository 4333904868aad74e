"""What the last changes of a buffer did, in SQL: for replicas, who read that instead of the whole buffer."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.index.reading import Reading, unanswered
from memory_service.store.index.writing import Writing

KEPT: Final = 32
"""Changes of a buffer. Who is further behind reads the buffer faster."""
MOST_BYTES: Final = 512 * 1024
"""Of one: what took more is not kept, and who is behind reads the buffer."""

_N = tables.news.c


def insert(writing: Writing, buffer_id: int, data: bytes) -> None:
    """Note what this transaction does to a buffer, and forget what one of long ago did."""
    number = writing.changed_to
    if number is None:
        return
    if len(data) <= MOST_BYTES:
        writing.connection.execute(_INSERT, {"buffer_id": buffer_id, "number": number, "what": data})
    writing.connection.execute(_FORGET, {"of": buffer_id, "last": number - KEPT})


def following(reading: Reading, buffer_id: int, number: int) -> list[bytes]:
    """What the changes behind that number did, one after another, as far as that is known of each."""
    statement = sa.select(_N.number, _N.what).where(_N.buffer_id == buffer_id, _N.number > number)
    found = reading.connection.execute(statement.order_by(_N.number)).all()
    return [row.what for expected, row in enumerate(found, number + 1) if row.number == expected]


# Made once: they are part of every change.
_INSERT = unanswered(tables.news.insert())
_FORGET = unanswered(tables.news.delete().where(_N.buffer_id == sa.bindparam("of"), _N.number <= sa.bindparam("last")))
