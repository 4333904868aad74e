"""Names of segment files that are about to be made, or about to go, in the index before anything is done to a file.

So a file that no segment's row speaks of can be told apart: named here, it is what a crash has left; else it is
something that the index does not know, and nobody's to delete. Names are reserved a few ahead, in transactions that
are committed anyway: no file waits for one of its own.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

AHEAD: Final = 8
"""Names reserved, once there are fewer than half of them."""


class Intents:
    """Which names are reserved and not used, and which are not needed any more.

    Args:
        table: with columns ``stem`` and ``leaving``.
    """

    def __init__(self, table: sa.Table) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._ready: deque[str] = deque()
        self._gone: set[str] = set()
        """Names whose files are gone, and whose rows can go with the next transaction."""

    def take(self) -> str | None:
        """A name that the index knows and no file has ever had; None where none is reserved."""
        with self._lock:
            return self._ready.popleft() if self._ready else None

    def gone(self, stems: Iterable[str]) -> None:
        """Files of these names do not exist (any more), and will not."""
        with self._lock:
            self._gone.update(stems)

    def note(self, connection: sa.Connection) -> tuple[list[str], set[str]]:
        """Reserve names and forget those that are gone; :meth:`noted` takes the answer once that is committed."""
        with self._lock:
            new = [uuid.uuid4().hex for _ in range(AHEAD - len(self._ready))] if len(self._ready) < AHEAD // 2 else []
            gone = set(self._gone)
        if new:
            connection.execute(self._table.insert(), [{"stem": stem, "leaving": False} for stem in new])
        if gone:
            # One statement a name, prepared once: lists in SQL are bounded.
            this = self._table.delete().where(self._table.c.stem == sa.bindparam("of"))
            connection.execute(this, [{"of": stem} for stem in gone])
        return new, gone

    def noted(self, new: Iterable[str], gone: set[str]) -> None:
        with self._lock:
            self._ready.extend(new)
            self._gone -= gone
