"""What a buffer holds after a phase, in items and in bytes: what every adapter says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from client.buffer import Buffer
from client.models import PushResult

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhaseReport:
    """A buffer after a phase. As a text it is one line."""

    phase: int
    stored: int | None
    """Exemplars of this phase's push that were kept; None where nobody said, as the next."""
    evicted: int | None
    """Earlier exemplars that made room for them."""
    exemplars: int
    """All that the buffer holds."""
    classes: int
    bytes_used: int
    budget_bytes: int

    def __str__(self) -> str:
        came = "" if self.stored is None else f"{self.stored:,} stored, {self.evicted:,} evicted; "
        each = f", {self.bytes_used / self.exemplars:,.0f} each" if self.exemplars else ""
        return (
            f"phase {self.phase}: {came}{self.exemplars:,} exemplars of {self.classes:,} classes, "
            f"{self.bytes_used:,} of {self.budget_bytes:,} bytes{each}"
        )


def phase_report(
    buffer: Buffer, phase: int, pushed: PushResult | None = None, report: Callable[[str], object] | None = None
) -> PhaseReport:
    """Say what a buffer holds: how many exemplars, and in how many bytes of its budget.

    Args:
        phase: its number, for the line.
        pushed: what became of the phase's exemplars.
        report: is given the line, as ``print`` would be; default the log of this module, at level INFO.
    """
    stats = buffer.stats()
    found = PhaseReport(
        phase=phase,
        stored=None if pushed is None else pushed.kept,
        evicted=None if pushed is None else len(pushed.evicted),
        exemplars=stats.num_records,
        classes=stats.num_classes,
        bytes_used=stats.bytes_used,
        budget_bytes=stats.budget_bytes,
    )
    (report or _logger.info)(str(found))
    return found
