"""Segments of which a buffer of a shared index lets go, in SQL: those that nobody else holds are about to go."""

from __future__ import annotations

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.index.clock import in_seconds
from memory_service.store.index.reading import unanswered

HOLD_SEGMENTS = unanswered(
    # In one order; and those who only refer to one do not wait.
    sa.text("SELECT FROM segments WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE")
)
_UNHELD = (
    "segments.id = ANY({ids}) AND NOT EXISTS (SELECT FROM buffer_segments AS held WHERE held.segment_id = segments.id)"
)
_OF_UNHELD = _UNHELD.format(ids=":ids")
_LEAVING = sa.select(tables.segments.c.stem, sa.true(), in_seconds(sa.bindparam("seconds", type_=sa.Double)))
FORGET_UNHELD = (
    unanswered(sa.text(f"DELETE FROM open_rows USING segments WHERE segment_id = segments.id AND {_OF_UNHELD}")),
    unanswered(sa.text(f"DELETE FROM open_bodies USING segments WHERE segment_id = segments.id AND {_OF_UNHELD}")),
    unanswered(
        sa.insert(tables.intents).from_select(["stem", "leaving", "upload_until"], _LEAVING.where(sa.text(_OF_UNHELD)))
    ),
)
DELETE_UNHELD = f"DELETE FROM segments WHERE {_UNHELD.format(ids='%(ids)s')} RETURNING stem"
"""For the driver."""
