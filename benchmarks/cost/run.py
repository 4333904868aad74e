"""What a run of the cost benchmark measured, and the figures that sum it up."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from benchmarks.common.rounds import Figure, ratio

BEFORE = "0bed484"
"""The commit that memory is compared with: the last one before learners were made to share a machine."""


@dataclass(frozen=True)
class Beside:
    """Learners alone and beside others; seconds a sample.

    Attributes:
        first_threads, second_threads: what a learner took that began on the machine as it was, and one that began
            beside a busy process.
        alone: the first.
        first, second: each beside one busy process.
        batch_size: samples of a step, exemplars included.
        together: samples a second of both at once, over those of the first alone; a value a round.
    """

    first_threads: int
    second_threads: int
    batch_size: int
    alone: Figure
    first: Figure
    second: Figure
    together: tuple[float, ...]


@dataclass(frozen=True)
class Peak:
    """A demo of one build.

    Attributes:
        learner_mib, service_mib: the most that either had in memory at once.
        seconds: the learner took.
    """

    learner_mib: float
    service_mib: float
    seconds: float


@dataclass(frozen=True)
class Replay:
    """Epochs with replay, and with the same batches as tensors.

    Attributes:
        record_bytes: mean of the records.
        num_steps: of an epoch.
        waited: the share of the time with replay that was spent waiting for it.
    """

    record_bytes: float
    num_steps: int
    service: Figure
    tensors: Figure
    waited: float


@dataclass
class Run:
    """Everything that one run measured.

    Attributes:
        busy: cores that other processes kept busy as it began.
        masks: seconds of a plain forward pass over the same samples (``forward``), and with masks of each kind.
        num_samples: how many samples those were.
        seeds: of each demo in ``peaks``.
        peaks: ``before`` and ``after``; empty where there was no build to compare with.
        skipped: what was left out, and why.
    """

    busy: float
    beside: Beside
    replay: dict[str, Replay]
    masks: dict[str, Figure]
    num_samples: int
    seeds: int
    peaks: dict[str, Peak] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def summary(run: Run) -> dict[str, float | None]:
    """The figures that the project promises something about."""
    beside, before, after = run.beside, run.peaks.get("before"), run.peaks.get("after")
    values = {
        "step_beside_busy_vs_alone": max(ratio(figure, beside.alone) for figure in (beside.first, beside.second)),
        "two_learners_vs_one": statistics.median(beside.together),
        "peak_rss_vs_before": after.learner_mib / before.learner_mib if before and after else None,
        "demo_seconds_vs_before": after.seconds / before.seconds if before and after else None,
        "service_peak_rss_vs_before": after.service_mib / before.service_mib if before and after else None,
        "replay_step_vs_tensors": max(ratio(each.service, each.tensors) for each in run.replay.values()),
        "replay_wait_share": max(each.waited for each in run.replay.values()),
    }
    return {name: None if value is None else round(value, 4) for name, value in values.items()}
