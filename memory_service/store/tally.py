"""What happened to a buffer since its store was opened, counted."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields


@dataclass
class Tally:
    """Counters that only grow."""

    pushes: int = 0
    """Those whose outcome was decided; the same answer given again does not count."""
    kept: int = 0
    """Records that were pushed and kept."""
    rejected: int = 0
    """Records that were pushed and not kept."""
    evicted: int = 0
    """Records that made room, for others or for a smaller budget."""
    samples: int = 0
    """Batches drawn, each part of one counting by itself."""
    drawn: int = 0
    """Records in them, or in those parts."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, **counts: int) -> None:
        """Count, from any thread."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def read(self) -> dict[str, int]:
        """All of them, of one moment."""
        with self._lock:
            return {field.name: getattr(self, field.name) for field in fields(self)}
