"""Which records a reader sees.

Reads take no lock: they use whatever state is current, which never changes under them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from memory_format import StorageError
from memory_service.store.contents import Contents
from memory_service.store.pure.columns import Columns
from memory_service.store.segments.base import SegmentGoneError

T = TypeVar("T")


class Steady:
    """Reading one buffer while it may change.

    Wherever a method takes ``snapshot``, it reads what the buffer held when that was taken; None: what it holds
    now. It raises ``NotFoundError`` (``unknown_snapshot``) where there is none of that name.

    Args:
        alone: gives the buffer's lock, with nothing of an earlier failure left.
    """

    def __init__(self, contents: Contents, alone: Callable[[], AbstractContextManager[None]]) -> None:
        self.contents = contents
        self.alone = alone
        self._index = contents.index
        self._options = contents.options

    def steadily(self, snapshot: str | None, read: Callable[[Columns], T]) -> T:
        """Read the buffer as it is; once more where a segment was rewritten or removed before it was opened.

        Raises:
            NotFoundError: ``unknown_buffer``, ``unknown_snapshot``.
            StorageError: a segment is missing, and whatever reading raises.
        """
        self.contents.check_alive()
        columns = self._known_columns(snapshot)
        if columns is not None:
            with suppress(SegmentGoneError):
                return read(columns.shown)
        with self.alone():
            # Nothing moves now.
            try:
                return read(self.view(snapshot).shown)
            except SegmentGoneError as error:
                raise StorageError(f"segment {error} is missing from the store") from error

    def _known_columns(self, snapshot: str | None) -> Columns | None:
        """The columns to read, as they are stored, where no lock is needed for them."""
        return self.contents.state.columns if snapshot is None else self.contents.views.get(snapshot)

    def view(self, snapshot: str | None) -> Columns:
        """The columns as they are stored. For the holder of the buffer's lock. Raises as :meth:`steadily`."""
        state = self.contents.state
        if snapshot is None:
            return state.columns
        mark, view = state.snapshot(snapshot), self.contents.views.get(snapshot)
        if view is None:
            with self._index.reading() as reading:
                view = state.shown_by(mark, reading.scores_at(state.config.id, mark.version))
        self.contents.remember(snapshot, view)
        return view

    def _at_hand(self, snapshot: str | None, read: Callable[[Columns], T]) -> T:
        """The same without waiting. Raises ``BlockingIOError``: not all that is read is at hand."""
        self.contents.check_alive()
        columns = self._known_columns(snapshot)
        if columns is None or not columns.is_shown_ready:
            raise BlockingIOError("the records are not at hand")
        try:
            return read(columns.shown)
        except SegmentGoneError as error:
            raise BlockingIOError(f"segment {error} has moved") from error
