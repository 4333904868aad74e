"""Which learner of a buffer is in which phase."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_format.api.answer import Answer


@dataclass(frozen=True)
class LearnerPhase(Answer):
    """A learner, and the phase that it has said to be in."""

    learner_id: str
    phase: int
    ended: bool
    """It has gone through all its phases."""
    entered_at: float
    """Seconds since 1970, by the clock of the index."""

    def has_reached(self, phase: int) -> bool:
        """Whether nobody has to wait for it to enter a phase."""
        return self.ended or self.phase >= phase


@dataclass(frozen=True)
class PhaseList(Answer):
    """Learners of a buffer by id."""

    learners: tuple[LearnerPhase, ...]
    next_cursor: str | None = field(default=None, kw_only=True)
    """Leads to the next page; None at the end."""
