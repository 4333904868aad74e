"""What a push with an idempotency key was told, small enough to keep one for every push."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from memory_service.store.pure import ledger

_DICTIONARY: Final = (
    b'null,null,null],"kept":0,"rejected":1,"evicted":[],"bytes_used":{"exemplar_ids":[null],"kept":1,"rejected":0,'
    b'"evicted":[],"bytes_used":,"budget_bytes":,"version":'
)
"""What every answer is made of. Stored answers need it to be read: it never changes."""


@dataclass(frozen=True)
class Answer:
    """A row of ``pushes``.

    Make one with :meth:`of`.
    """

    idempotency_key: str
    digest: bytes
    answer: bytes
    """The JSON, deflated with :data:`_DICTIONARY`."""

    @classmethod
    def of(cls, key: str, digest: bytes, document: str) -> Answer:
        """Of the push with that key and digest, told that JSON."""
        deflate = zlib.compressobj(9, zdict=_DICTIONARY)
        return cls(key, digest, deflate.compress(document.encode()) + deflate.flush())

    @property
    def num_bytes(self) -> int:
        """What the ledger counts."""
        return ledger.answer_bytes(len(self.idempotency_key), len(self.answer))


def read_answer(answer: bytes) -> str:
    """The JSON of a stored answer, also of one from before there was a dictionary."""
    return zlib.decompressobj(zdict=_DICTIONARY).decompress(answer).decode()
