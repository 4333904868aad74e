"""What a run found: read again without the libraries that it was measured with."""

from __future__ import annotations

from dataclasses import dataclass, field

BATCH = 32


@dataclass
class Contest:
    """Of one library and one size of pictures."""

    library: str
    side: int
    own_ms: float
    """A batch of its own buffer, median of the rounds; the next through the adapter."""
    adapter_ms: float
    ratio: float
    """Median of the rounds' ratios."""


@dataclass
class Run:
    items: int
    rounds: int
    contests: list[Contest] = field(default_factory=list)
