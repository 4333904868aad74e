"""A batch that a process of this machine reads by itself: where its records lie, and a lease of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_format.lending import LentRows, rows_of
from memory_service.store.contents import Contents
from memory_service.store.pure.columns import Rows, concatenated, numbered
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


def lend(
    contents: Contents,
    taken: Rows,
    swapped: NDArray[np.int64],
    donors: Rows | None,
    version: int,
    *,
    wait: bool,
) -> LentBatch:
    """Rows that were drawn, as the places of their records.

    Args:
        swapped: which of them carry the text of another.
        donors: the rows of those others; None where there are none.
        wait: for files to be opened.

    Raises:
        NotLentError: they lie in more files than can be held, or in none.
        BlockingIOError: without ``wait``, not all of the files are open.
        SegmentGoneError: a segment was rewritten or removed since the rows were current.
        StorageError: a record is known to be damaged.
    """
    rows = taken if donors is None else concatenated([taken, donors])
    ids, segment = numbered(rows["segment"])
    places = ((which, offset, 0, 0, 0) for which, offset in zip(segment.tolist(), rows["offset"].tolist(), strict=True))
    lease = contents.lend(ids.tolist(), wait=wait, places=places)
    if lease is None:
        raise NotLentError(f"it lies in {len(ids)} files, which are more than can be held")
    try:
        descriptors = lease.file_descriptors()
        if descriptors is None:
            raise NotLentError("it lies in no files")
        codes, learner = numbered(rows["learner"])
        learner_ids = [contents.learners.ids[code] for code in codes.tolist()]
        found = LentRows(
            version,
            contents.state.config.created_at,
            rows_of(rows, learner, segment),
            swapped.astype(np.uint32),
            learner_ids,
            len(descriptors),
        )
    except BaseException:
        lease.close()
        raise
    return LentBatch(contents.state.config.name, found, descriptors, lease)
