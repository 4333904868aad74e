"""How much all buffers of a store may promise together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from memory_format import BudgetError


class Quota:
    """The sum of all budgets, each counted at the most that it may grow to.

    Args:
        limit: None: as much as anybody likes.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._most: dict[str, int] = {}

    def note(self, name: str, most: int) -> None:
        """A buffer that is there, whatever the limit says by now."""
        with self._lock:
            self._most[name] = most

    def drop(self, name: str) -> None:
        with self._lock:
            self._most.pop(name, None)

    @contextmanager
    def claim(self, name: str, most: int) -> Iterator[None]:
        """Around a change that gives a buffer another budget: it counts from here on, and where the change fails, what
        the buffer had.

        Raises:
            BudgetError: ``quota_exceeded``.
        """
        with self._lock:
            before = self._most.get(name)
            others = sum(self._most.values()) - (before or 0)
            if self._limit is not None and most > (before or 0) and others + most > self._limit:
                free = max(0, self._limit - others)
                raise BudgetError(
                    f"a budget of up to {most} bytes is asked for, {free} of the {self._limit} that all buffers may "
                    "have together are free: ask for less, give one that grows a max_budget_bytes, or delete buffers",
                    code="quota_exceeded",
                    requested_bytes=most,
                    free_bytes=free,
                    limit=self._limit,
                )
            self._most[name] = max(most, before or 0)
        try:
            yield
        except BaseException:
            if before is None:
                self.drop(name)
            else:
                self.note(name, before)
            raise
        self.note(name, most)
