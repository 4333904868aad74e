"""How much all buffers of a store may promise together, and what they leave to the store itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory_format import BudgetError
from memory_service.store.pure.ledger import store_share
from memory_service.store.pure.model import BufferConfig


class Quota:
    """The sum of all budgets, each counted at the most that it may grow to.

    Args:
        limit: None: as much as anybody likes.
        left: called with the bytes that all disk limits together leave to the store itself, whenever they change.
    """

    def __init__(self, limit: int | None, left: Callable[[int], object]) -> None:
        self._limit = limit
        self._left = left
        self._lock = threading.Lock()
        self._most: dict[str, int] = {}
        self._shares: dict[str, int] = {}

    def note(self, config: BufferConfig) -> None:
        """A buffer that is there, whatever the limit says by now."""
        self._set(config.name, config.most_bytes, store_share(config))

    def drop(self, name: str) -> None:
        self._set(name, None, None)

    def _set(self, name: str, most: int | None, share: int | None) -> None:
        with self._lock:
            for values, value in ((self._most, most), (self._shares, share)):
                values.pop(name, None)
                if value is not None:
                    values[name] = value
            self._left(sum(self._shares.values()))

    @contextmanager
    def claim(self, config: BufferConfig) -> Iterator[None]:
        """Around a change that gives a buffer these settings: what is more than it had counts from here on, and where
        the change fails, what it had.

        Raises:
            BudgetError: ``quota_exceeded``.
        """
        name, most, share = config.name, config.most_bytes, store_share(config)
        with self._lock:
            before, share_before = self._most.get(name), self._shares.get(name)
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
        self._set(name, max(most, before or 0), min(share, share_before or 0))
        try:
            yield
        except BaseException:
            self._set(name, before, share_before)
            raise
        self.note(config)
