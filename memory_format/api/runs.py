"""Reports of runs: what a learner says at the end of one, and what the service shows of it.

A report is figures and words, and names exemplars instead of having pictures of them: what is erased from a buffer is
then in no report either, and whoever shows one draws everything by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from memory_format.api.answer import Answer
from memory_format.api.fields import BufferName, ClassName, Description, ExemplarId, VocabularyName

MAX_RUN_BYTES: Final = 2**20
"""Of a report as it is kept."""
MAX_METHODS: Final = 100
MAX_PHASES: Final = 1000
MAX_SEEDS: Final = 1000
MAX_SHOWN: Final = 60
"""Exemplars that a report names."""
MAX_FACTS: Final = 1000

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Count = Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, frozen=True)


class ShareOverSeeds(_Sent):
    """A share, over the seeds of a run."""

    mean: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
    deviation: _Share | None = None
    """Standard deviation; null of one seed."""


class CountOverSeeds(_Sent):
    """A number, over the seeds of a run."""

    mean: _Count
    deviation: _Count | None = None
    """Standard deviation; null of one seed."""


class RunPhase(_Sent):
    """What was reached after a phase, and what the memory held; means over the seeds."""

    classes_seen: _Count
    accuracy: _Share
    exemplars: _Count
    bytes_used: _Count


class RunMethod(_Sent):
    """One method of a run."""

    method: ClassName
    """As ``learner run --methods`` takes it."""
    label: ClassName
    """In words."""
    buffers: list[BufferName] = Field([], max_length=MAX_SEEDS)
    """Its memory, one a seed."""
    last: ShareOverSeeds
    """Accuracy on all classes after the last phase."""
    average: ShareOverSeeds
    """Accuracy over the phases."""
    forgetting: ShareOverSeeds
    exemplars: CountOverSeeds
    """Held after the last phase."""
    bytes_used: CountOverSeeds
    """The same."""
    phases: list[RunPhase] = Field(min_length=1, max_length=MAX_PHASES)


class ShownExemplar(_Sent):
    """An exemplar that the run shows."""

    buffer: BufferName
    exemplar_id: ExemplarId


_EXAMPLE: Final[dict[str, Any]] = {
    "name": "trial",
    "title": "my pictures",
    "num_seeds": 1,
    "budget_bytes": 50_000,
    "methods": [
        {
            "method": "masked",
            "label": "masked exemplars",
            "buffers": ["trial-1f0c93-masked"],
            "last": {"mean": 0.71},
            "average": {"mean": 0.8},
            "forgetting": {"mean": 0.12},
            "exemplars": {"mean": 64},
            "bytes_used": {"mean": 49_870},
            "phases": [{"classes_seen": 10, "accuracy": 0.71, "exemplars": 64, "bytes_used": 49_870}],
        }
    ],
}


class RunReport(_Sent):
    """What a run has found."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: ClassName
    """What people call the run."""
    title: ClassName
    """What people call its data."""
    verdict: Description = ""
    """What came out, in words."""
    setting: Description = ""
    """What was compared, in words."""
    num_seeds: int = Field(ge=1, le=MAX_SEEDS)
    budget_bytes: _Count
    """Of each method."""
    methods: list[RunMethod] = Field(min_length=1, max_length=MAX_METHODS)
    phases: list[list[ClassName]] = Field([], max_length=MAX_PHASES)
    """The classes that came in each, of the first seed."""
    exemplars: list[ShownExemplar] = Field([], max_length=MAX_SHOWN)
    settings: dict[ClassName, Description] = Field({}, max_length=MAX_FACTS)
    machine: dict[ClassName, Description] = Field({}, max_length=MAX_FACTS)
    """Versions and hardware."""

    @property
    def buffers(self) -> frozenset[str]:
        """All that it speaks of."""
        of_methods = (name for method in self.methods for name in method.buffers)
        return frozenset([*of_methods, *(shown.buffer for shown in self.exemplars)])


@dataclass(frozen=True)
class MethodResult(Answer):
    """One method of a run in short: means over the seeds, after the last phase."""

    method: str
    label: str
    last: float
    """Accuracy, 0..1."""
    exemplars: float
    bytes_used: float


@dataclass(frozen=True)
class RunInfo(Answer):
    """A run in short."""

    run_id: str
    stored_at: float
    """Seconds since 1970."""
    name: VocabularyName
    title: VocabularyName
    num_seeds: int
    budget_bytes: float
    methods: tuple[MethodResult, ...]


@dataclass(frozen=True)
class RunList(Answer):
    """Runs, newest first."""

    runs: tuple[RunInfo, ...]
    next_cursor: str | None = field(default=None, kw_only=True)
    """Leads to the next page; None at the end."""
    damaged: tuple[str, ...] = field(default=(), kw_only=True)
    """Ids of those on this page whose report cannot be read: for who may see all buffers."""


@dataclass(frozen=True)
class StoredRun(Answer):
    """A run with all of its report."""

    run_id: str
    stored_at: float
    """Seconds since 1970."""
    report: RunReport
