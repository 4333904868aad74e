"""Which exemplars stored records are, where some of their arrays were replaced.

A replacement is a record of its own, stored under an id that is new: files, deaths and snapshots know nothing else of
it. The few that there are stand in a table beside the records, by which those who read see it under the id that its
exemplar has had from the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format.body import extras_of
from memory_format.extras import decode_extras
from memory_format.header import FLAG_REVISED

REVISED_DTYPE: Final = np.dtype(
    [("stored_id", "<u8"), ("exemplar_id", "<u8"), ("revision", "<u8"), ("pushed_crc32", "<u4")]
)
"""A stored record, the exemplar that it is, how often arrays of that were replaced by then, and the CRC-32 of the body
that was pushed: an exemplar of a buffer and one of its fork are the same where id and that CRC are."""

Revised = NDArray[np.void]
"""``(R,)`` of :data:`REVISED_DTYPE`, ascending by ``stored_id``, each once. What is not in it is itself."""

NOTHING_REVISED: Final[Revised] = np.zeros(0, REVISED_DTYPE)
_SPARE: Final = 1000


def joined(some: Revised, others: Revised) -> Revised:
    """Two tables as one."""
    if not len(others) or not len(some):
        return some if len(some) else others
    both = np.concatenate([some, others])
    _, first = np.unique(both["stored_id"], return_index=True)
    return both[first]


def among(revised: Revised, stored_ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], Revised]:
    """Which of some stored records are in the table, and what it says of those."""
    if not len(revised) or not len(stored_ids):
        return np.zeros(0, np.int64), revised[:0]
    known: NDArray[np.uint64] = revised["stored_id"]
    places = np.minimum(np.searchsorted(known, stored_ids), len(known) - 1)
    found = np.flatnonzero(known[places] == stored_ids)
    return found, revised[places[found]]


def shown_ids(revised: Revised, stored_ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The ids by which stored records are known, ``(N,)``."""
    found, said = among(revised, stored_ids)
    if not len(found):
        return stored_ids
    ids = stored_ids.copy()
    ids[found] = said["exemplar_id"]
    return ids


def pruned(revised: Revised, *held: NDArray[np.uint64]) -> Revised:
    """The table without those that nobody holds any more, once they are most of it."""
    if len(revised) <= 2 * sum(map(len, held)) + _SPARE:
        return revised
    return revised[np.isin(revised["stored_id"], np.concatenate(held))]


def revisions_of(
    headers: NDArray[np.void], bodies: Sequence[bytes | memoryview], stored_ids: NDArray[np.uint64]
) -> Revised:
    """What records themselves say; the CRC-32 of what was pushed is theirs, as far as they know."""
    places = np.flatnonzero(headers["flags"] & FLAG_REVISED)
    said = np.zeros(len(places), REVISED_DTYPE)
    said["stored_id"], said["pushed_crc32"] = stored_ids[places], headers["crc32"][places]
    for row, place in enumerate(places.tolist()):
        revision = decode_extras(extras_of(headers[place], bodies[place])).revision
        assert revision is not None, "the flags were checked"
        said["exemplar_id"][row], said["revision"][row] = revision
    return np.sort(said, order="stored_id")
