"""What a run of the storage benchmark measured, and the figures that sum it up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common.rounds import Figure, ratio
from benchmarks.storage.churn import ChurnResult
from benchmarks.storage.contestants import decoded
from benchmarks.storage.contestants.files import RawFile
from benchmarks.storage.contestants.ours import (
    AHEAD,
    DECODED,
    LOCAL,
    LOCAL_AHEAD,
    BareServer,
    InProcess,
    OverHttp,
    Trusted,
)
from benchmarks.storage.scale import Scale, open_median
from benchmarks.storage.stages import SampleStage

# Who is measured against which of ours: a pipeline that fetches ahead against one that does so too.
# The same exemplars, each system holding them as it is made to: tensors of pixels there, encoded bytes here.
_TORCHRL = (
    ("torchrl LazyMemmapStorage, pixels", OverHttp.name),
    ("torchrl LazyMemmapStorage, pixels, 1 thread", OverHttp.name),
)
_REVERB = (("dm-reverb, pixels, Client.sample", OverHttp.name), ("dm-reverb, pixels, TrajectoryDataset", AHEAD))
# The same encoded bytes in both.
_TORCHRL_SAME_BYTES = (
    ("torchrl LazyMemmapStorage", OverHttp.name),
    ("torchrl LazyMemmapStorage, 1 thread", OverHttp.name),
)
_TORCHRL_LOCAL = tuple((theirs, LOCAL) for theirs, _ in _TORCHRL_SAME_BYTES)
_PREAD = (("raw file + pread", LOCAL),)
_PREAD_AHEAD = (("raw file + pread", LOCAL_AHEAD),)
_REVERB_SAME_BYTES = (("dm-reverb, Client.sample", OverHttp.name), ("dm-reverb, TrajectoryDataset", AHEAD))
# Pixels in the trainer's hands from both.
_TORCHRL_DECODED = tuple((theirs, DECODED) for theirs, _ in _TORCHRL)
_TORCHRL_AGAIN = tuple((theirs, decoded.AGAIN) for theirs, _ in _TORCHRL)

MEDIUM = "medium store"  # key of the note that says why it holds smaller records


@dataclass
class Run:
    """Everything that one run measured.

    Attributes:
        plan: its sizes and repeats.
        file_system: on which the stores lay.
        cold_how: what was done for cold figures.
        notes: by contestant, what a reader of the tables has to know.
        skipped: who was left out, and why.
        push: by records a push, then by contestant.
    """

    plan: dict[str, Any]
    file_system: str
    cold_how: str
    notes: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    push: dict[int, dict[str, Figure]] = field(default_factory=dict)
    stages: list[SampleStage] = field(default_factory=list)
    scale: Scale | None = None
    churns: list[ChurnResult] = field(default_factory=list)


def summary(run: Run) -> dict[str, float | None]:
    """The figures that the project promises something about, and those that put them into proportion.

    Where several measurements answer one question, the least favourable one counts: the smaller ratio of the
    stages with records of the full size, the faster of two ways to read a competitor, the worse sampling
    strategy, the churn that writes most for what it is pushed or takes most of the disk.
    """
    full = [stage for stage in run.stages if stage.record_bytes >= run.plan["record_bytes"] * 0.9]
    cold = [stage for stage in full if decoded.FIRST in stage.warm]
    vs_bare = [ratio(stage.warm[BareServer.name], stage.warm[OverHttp.name]) for stage in full]
    largest_push = run.push[max(run.push)]
    amplification = [churn.amplification_of_pushed for churn in run.churns]
    http = (
        [value for key, value in run.scale.latency_ratio.items() if key.startswith(OverHttp.name)] if run.scale else []
    )
    values = {
        "http_sample_vs_uvicorn": min(vs_bare),
        "http_sample_vs_torchrl": _least_ahead(full, _TORCHRL),
        "http_sample_vs_reverb": _least_ahead(full, _REVERB),
        "http_sample_vs_torchrl_same_bytes": _least_ahead(full, _TORCHRL_SAME_BYTES),
        "http_sample_vs_reverb_same_bytes": _least_ahead(full, _REVERB_SAME_BYTES),
        "http_sample_decoded_vs_torchrl": _least_ahead(full, _TORCHRL_DECODED),
        "decoded_warm_vs_torchrl_pixels": _least_ahead(full, _TORCHRL_AGAIN),
        "decoded_cold_vs_decoder": max(map(_cold_vs_decoder, cold), default=None),
        "local_vs_pread": _least_ahead(full, _PREAD),
        "local_ahead_vs_pread": _least_ahead(full, _PREAD_AHEAD),
        "local_vs_torchrl_same_bytes": _least_ahead(full, _TORCHRL_LOCAL),
        "sample_latency_1e6_vs_1e3": max(http, default=None),
        "open_1e6_seconds": open_median(run.scale) if run.scale else None,
        "index_bytes_per_record": run.scale.index_bytes_per_record if run.scale else None,
        "push_vs_raw_fsync": _vs_raw(largest_push, Trusted),
        "push_decoded_vs_raw_fsync": _vs_raw(largest_push, InProcess),
        "write_amplification": None
        if None in amplification or not amplification
        else max(value for value in amplification if value is not None),
        "disk_over_limit": max((churn.disk_over_limit for churn in run.churns), default=None),
    }
    return {name: None if value is None else round(value, 3) for name, value in values.items()}


def _least_ahead(stages: Iterable[SampleStage], pairs: Iterable[tuple[str, str]]) -> float | None:
    found = [
        ratio(stage.warm[theirs], stage.warm[ours])
        for stage in stages
        for theirs, ours in pairs
        if theirs in stage.warm and ours in stage.warm
    ]
    return min(found, default=None)


def _vs_raw(pushes: Mapping[str, Figure], ours: type[InProcess]) -> float | None:
    return ratio(pushes[RawFile.name], pushes[ours.name]) if RawFile.name in pushes else None


def _cold_vs_decoder(stage: SampleStage) -> float:
    return ratio(stage.warm[decoded.FIRST], stage.warm[decoded.DECODER])
