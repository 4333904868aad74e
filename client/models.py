"""What became of a call that may have taken several requests.

What one request is answered is in ``memory_format.api.answers``.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_format.api.answers import DeleteResponse, PushResponse, UpdateResponse
from memory_format.api.receipts import ErasureReceipt


@dataclass(frozen=True)
class PushResult(PushResponse):
    """What became of the records of one push, all its batches together.

    A later batch of the same push may have evicted again what an earlier one kept: see ``evicted``.
    """

    batches: int
    """In how many pieces the records were taken in."""


@dataclass(frozen=True)
class UpdateResult(UpdateResponse):
    """What became of new scores, ranks or arrays, all requests together."""


@dataclass(frozen=True)
class DeleteResult(DeleteResponse):
    """What a deletion removed, all requests together."""

    missing: tuple[int, ...] = ()
    """Ids asked for that the buffer did not hold (any more)."""
    receipts: tuple[ErasureReceipt, ...] = ()
    """Where they were erased: one a request that found anything to erase."""
