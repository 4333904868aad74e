"""The words of a buffer's vocabulary, for whoever looks at its texts: that of token id 0, of token id 1, and so on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class Words:
    """Words as the index keeps them; that they are of the buffer's fingerprint was looked at before."""

    packed: bytes

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """Each of them."""
        return tuple(json.loads(zlib.decompress(self.packed)))

    def of(self, token: int) -> str | None:
        """What a token id means; None where it is none of the vocabulary's."""
        return self.listed[token] if token < len(self.listed) else None


def packed(words: Sequence[str]) -> Words:
    """Words to be kept."""
    return stored(zlib.compress(json.dumps(list(words), ensure_ascii=False).encode()))


@lru_cache(maxsize=64)
def stored(data: bytes) -> Words:
    """Words as they were kept: buffers of one vocabulary share them."""
    return Words(data)
