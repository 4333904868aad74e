"""Names of segments that are about to be made, or to go: what a crash leaves is told by them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.index.clock import in_seconds, is_over
from memory_service.store.index.reading import MOST_VALUES, Reading, unanswered


class Intents(Reading):
    """What a transaction that changes the index does to them.

    Args:
        changed_to: the number that the index has once this is committed; None where it is not counted.
        segment_ids: for new segments, nobody else is given them; taken from here. The database gives more.
        grace_seconds: see :attr:`Index.grace_seconds`; None where the index is not shared.
    """

    def __init__(
        self,
        connection: sa.Connection,
        changed_to: int | None = None,
        segment_ids: deque[int] | None = None,
        *,
        grace_seconds: float | None = None,
    ) -> None:
        super().__init__(connection, shared=grace_seconds is not None)
        self.changed_to = changed_to
        self._segment_ids = segment_ids
        self._grace_seconds = grace_seconds

    def begin_uploads(self, stems: Sequence[str], seconds: float) -> None:
        """Note that segments of these names, which were reserved and are none yet, are uploaded for so long."""
        i, until = tables.intents.c, in_seconds(seconds)
        for first in range(0, len(stems), MOST_VALUES):
            these = i.stem.in_(stems[first : first + MOST_VALUES])
            self.connection.execute(unanswered(tables.intents.update().where(these).values(upload_until=until)))

    def claim_dead(self, stems: Sequence[str]) -> dict[str, bool]:
        """Of some segments, those whose time to be put, or to be read, has passed: nobody can make them part of a
        buffer from here on. And whether their names can be forgotten once they are removed: what was to be put may
        arrive later still, from a process that stood still, so it is claimed again once that time has passed anew.

        What arrives even later only who put it can name: nothing speaks of it any more."""
        i, s, claimed = tables.intents.c, tables.segments.c, dict[str, bool]()
        for first in range(0, len(stems), MOST_VALUES):
            part = stems[first : first + MOST_VALUES]
            # In one statement: a name becomes a segment's in one change.
            named = sa.select(i.stem).where(i.stem.in_(part)).union(sa.select(s.stem).where(s.stem.in_(part)))
            claimed |= dict.fromkeys({*part} - {*self.connection.execute(named).scalars()}, True)
            these = i.stem.in_(part) & is_over()
            again = sa.select(i.stem).where(these & i.leaving)
            claimed |= dict.fromkeys(self.connection.execute(again).scalars(), True)
            until = in_seconds(self._grace_seconds or 0.0)
            claim = tables.intents.update().where(these & ~i.leaving).values(leaving=True, upload_until=until)
            claimed |= dict.fromkeys(self.connection.execute(claim.returning(i.stem)).scalars(), False)
        return claimed

    def _forget_intent(self, stem: str, *, sealed: bool) -> None:
        """A segment is there. Where the time to put it has passed, and somebody removes it, the transaction fails."""
        if not self._shared:
            self.connection.execute(_FORGET_INTENT, {"of": stem})
        elif sealed:
            # Nobody waits for the answer.
            self.connection.execute(_END_UPLOAD, {"of": stem})

    def _insert_leaving(self, stems: Sequence[str]) -> None:
        """Nobody holds these segments any more."""
        if stems:
            rows = [{"stem": stem, "leaving": True} for stem in stems]
            self.connection.execute(unanswered(tables.intents.insert()), rows)


# Made once: they are part of every change, and cost more to make than to run.
_FORGET_INTENT = unanswered(tables.intents.delete().where(tables.intents.c.stem == sa.bindparam("of")))
_END_UPLOAD = unanswered(
    # Where nothing is left to end, these words are no number.
    sa.text(
        "WITH ended AS (DELETE FROM intents WHERE stem = :of AND NOT leaving RETURNING stem) "
        "SELECT CAST(CASE count(*) WHEN 1 THEN '1' ELSE 'put too late' END AS int) FROM ended"
    )
)
