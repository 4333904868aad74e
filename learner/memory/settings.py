"""Settings: what is stored, and in how many bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from learner.memory.selection import Selection
from learner.ranges import within
from memory_format import ExemplarMemoryError, make_codec
from memory_format.api.terms import NAME_PATTERN

MAX_BUDGET_BYTES = 2**50
"""Bytes of a buffer that the service gives at most."""

BUFFER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,21}")
"""What may stand before a method's name, which has 40 characters at most, in that of a buffer."""


Resample = Literal["area", "pixel"]

QualityRule = Literal["fixed", "mrdc"]

MRDC_QUALITIES: Final = (10, 25, 50, 75, 90)
"""Those that MRDC chooses from."""


@dataclass(frozen=True)
class MemoryConfig:
    """What is stored.

    Attributes:
        budget_bytes: bytes of the buffer, for all classes; 0 = room for five full samples of each class, or for a
            quarter of them where there are fewer than twenty.
        full_samples_per_class: where not 0, the budget is instead so many full samples for each class seen, and
            grows with them.
        full_sample_bytes: what one full sample is taken to cost in that case.
        codec: numcodecs configuration of the patch codec; full and masked exemplars use the same.
        quality_rule: ``fixed``: the codec's. ``mrdc``: in each phase one of 10, 25, 50, 75 and 90, by MRDC's rule
            (:mod:`learner.memory.mrdc`).
        selection: order within a class.
        patch_px: side in pixels with which patches are stored; replay enlarges them again. 0 = that of the backbone's.
        resample: what becomes of a cell of pixels where that is smaller: its mean (``area``), or one pixel of it
            (``pixel``, as GPS does, arXiv 2504.10409).
        buffer: what buffers are called, ``<buffer>-<method>``; empty = after the run's folder and id
            (:mod:`learner.run.run_mark`).
        join: name of a buffer that learners share; the run pushes into it as one of them, replays what all hold, and
            takes no snapshots. Empty = buffers of the run's own.
        learner: under whose name exemplars are pushed: what a key is tied to that was made with ``--learner``. Empty =
            the method's in buffers of the run's own, and the run's in one that is shared.
        in_step: learners of a shared buffer that end each phase together, by their names; ``learner`` is one of them. A
            run tests a phase when all of them have pushed theirs. Empty = it waits for nobody.
        wait_minutes: the longest that a run waits for them, at the end of each phase.
        snapshots: take a snapshot of the memory after each phase, ``phase-0``, ``phase-1`` and so on: what was
            held then can be listed and drawn from later. What they keep of evicted exemplars is on the disk of the
            service, and not in the budget.
    """

    budget_bytes: int = 50_000
    full_samples_per_class: int = 0
    full_sample_bytes: int = 0
    codec: dict[str, Any] = field(default_factory=lambda: {"id": "em_webp", "quality": 30})
    quality_rule: QualityRule = "fixed"
    selection: Selection = "herding"
    patch_px: int = 0
    resample: Resample = "area"
    buffer: str = ""
    join: str = ""
    learner: str = ""
    in_step: tuple[str, ...] = ()
    wait_minutes: float = 60.0
    snapshots: bool = True

    def __post_init__(self) -> None:
        within(self, 0, MAX_BUDGET_BYTES, "budget_bytes", "full_samples_per_class", "full_sample_bytes")
        within(self, 0, 255, "patch_px")
        if self.full_samples_per_class * self.full_sample_bytes > MAX_BUDGET_BYTES or (
            self.full_samples_per_class > 0
        ) != (self.full_sample_bytes > 0):
            raise ValueError(
                "full_samples_per_class and full_sample_bytes go together: both positive, or both 0, and at most 1 PiB"
            )
        try:
            make_codec(self.codec if self.quality_rule == "fixed" else {**self.codec, "quality": MRDC_QUALITIES[0]})
        except (ExemplarMemoryError, OverflowError) as error:
            raise ValueError(f"codec: {error}") from error
        if self.join and not NAME_PATTERN.fullmatch(self.join):
            raise ValueError(f"join is 1..63 of a-z 0-9 . _ - and begins with a letter or digit, got {self.join!r}")
        if self.learner and not NAME_PATTERN.fullmatch(self.learner):
            raise ValueError(
                f"learner is 1..63 of a-z 0-9 . _ - and begins with a letter or digit, got {self.learner!r}"
            )
        if self.in_step and not (self.join and self.learner in self.in_step):
            raise ValueError(
                "in_step names the learners of a shared buffer that wait for each other, this run's among them: "
                f"join and learner are needed, and that learner in in_step; got {self.learner!r} and {self.in_step}"
            )
        within(self, 0, 1e6, "wait_minutes")
        if self.join and self.buffer:
            raise ValueError("buffer names the run's own buffers, and join one that is shared: give one of them")
        if self.buffer and not BUFFER_NAME.fullmatch(self.buffer):
            raise ValueError(
                f"buffer is 1..22 of a-z 0-9 . _ - and begins with a letter or digit, or empty; got {self.buffer!r}"
            )

    @property
    def grows(self) -> bool:
        """Whether the budget grows with the classes seen."""
        return self.full_samples_per_class > 0

    def largest_bytes(self, num_classes: int) -> int:
        """The budget once all classes are seen; 0: the data is to choose one."""
        return self.full_samples_per_class * self.full_sample_bytes * num_classes or self.budget_bytes

    def disk_limit_bytes(self, num_classes: int, num_phases: int) -> int | None:
        """What the buffer may take on disk: room for what every snapshot may keep; None = the service's default.

        Args:
            num_classes: in all phases.
            num_phases: each of which leaves a snapshot.
        """
        return (num_phases + 1) * self.largest_bytes(num_classes) + 2**20 if self.snapshots else None
