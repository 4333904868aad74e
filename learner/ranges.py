"""Numbers of a configuration that must lie in a range."""

from __future__ import annotations

LARGEST = 2**63 - 1
"""Of seeds, and of all that counts without a limit of its own."""
FINITE = 1e6
"""Of rates and weights: beyond lies nothing that trains."""


def within(config: object, low: float, high: float, *names: str) -> None:
    """Check fields of a configuration; NaN lies in no range.

    Raises:
        ValueError: one of them does not lie in ``low..high``.
    """
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in {low:,}..{high:,}, got {value}")
