"""A connection by which a replica changes an index that it shares."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from memory_service.store.index.base import Found
from memory_service.store.index.connecting import end


@dataclass
class Session:
    """A connection that writes, in psycopg's pipeline, and the buffer that it holds meanwhile."""

    connection: sa.Connection
    pipeline: ExitStack
    segment_ids: deque[int] = field(default_factory=deque)
    """For new segments: nobody else is given them."""
    buffer_id: int | None = None
    """0 = which buffers there are, None = nothing."""
    began: int | None = None
    """Number of the buffer's last change when it was got; None where there is no such buffer."""
    number: int | None = None
    """And now."""
    found: Found | None = None
    """Answers that were looked for when it was got."""
    lost: bool = False
    """Whether it has ended: its last transaction may have been committed."""

    @property
    def driver(self) -> Any:
        """To be asked past SQLAlchemy."""
        return self.connection.connection.driver_connection

    def end(self) -> None:
        """Close it, whatever is under way."""
        self.lost = True
        end(self.connection)
        with suppress(Exception):
            self.pipeline.close()
