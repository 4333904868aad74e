"""A batch that a process of this machine reads by itself: where its records lie, and a lease of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_format.lending import LentRows
from memory_service.store.chosen import Chosen
from memory_service.store.contents import Contents
from memory_service.store.segments.readers import LentLease


class NotLentError(Exception):
    """The batch can be given as bytes only; the message says why."""


@dataclass(frozen=True, eq=False)
class LentBatch:
    """What to tell who reads the batch. Close the lease when he is done."""

    buffer: str
    rows: LentRows
    descriptors: Sequence[int]
    """Of the files, open for reading until the lease is closed."""
    lease: LentLease


def lend(contents: Contents, chosen: Chosen, *, wait: bool) -> LentBatch:
    """Records that were drawn, as their places.

    Args:
        wait: for files to be opened.

    Raises:
        NotLentError: they lie in more files than can be held, or in none.
        BlockingIOError: without ``wait``, not all of the files are open.
        SegmentGoneError: a segment was rewritten or removed since the rows were current.
        StorageError: a record is known to be damaged.
    """
    ids, places, rows = chosen.lent
    lease = contents.lend(ids, wait=wait, places=places)
    if lease is None:
        raise NotLentError(f"it lies in {len(ids)} files, which are more than can be held")
    descriptors = lease.file_descriptors()
    if descriptors is None:
        lease.close()
        raise NotLentError("it lies in no files")
    return LentBatch(contents.state.config.name, rows, descriptors, lease)
