"""What a run found, as the line for machines, a JSON document, and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.common.rounds import Figure, ratio
from benchmarks.common.tables import table
from benchmarks.storage.churn import ChurnResult
from benchmarks.storage.contestants.files import RawFile
from benchmarks.storage.contestants.ours import AHEAD, DECODED, BareServer, InProcess, OverHttp
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
_REVERB_SAME_BYTES = (("dm-reverb, Client.sample", OverHttp.name), ("dm-reverb, TrajectoryDataset", AHEAD))
# Pixels in the trainer's hands from both.
_TORCHRL_DECODED = tuple((theirs, DECODED) for theirs, _ in _TORCHRL)
MEDIUM = "medium store"  # key of the note that says why it holds smaller records

_WANTED = {
    "http_sample_vs_uvicorn": ">= 0.5",
    "http_sample_vs_torchrl": ">= 2",
    "http_sample_vs_reverb": "> 1",
    "http_sample_vs_torchrl_same_bytes": "-",
    "http_sample_vs_reverb_same_bytes": "-",
    "http_sample_decoded_vs_torchrl": "-",
    "sample_latency_1e6_vs_1e3": "<= 1.3",
    "open_1e6_seconds": "< 5",
    "index_bytes_per_record": "<= 250",
    "push_vs_raw_fsync": ">= 0.5",
    "write_amplification": "<= 2",
    "disk_over_limit": "<= 1",
}


@dataclass
class Run:
    """Everything that one run measured."""

    setting: dict[str, Any]
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
    full = [stage for stage in run.stages if stage.record_bytes >= run.setting["record_bytes"] * 0.9]
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
        "sample_latency_1e6_vs_1e3": max(http, default=None),
        "open_1e6_seconds": open_median(run.scale) if run.scale else None,
        "index_bytes_per_record": run.scale.index_bytes_per_record if run.scale else None,
        "push_vs_raw_fsync": ratio(largest_push[RawFile.name], largest_push[InProcess.name])
        if RawFile.name in largest_push
        else None,
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
        if theirs in stage.warm
    ]
    return min(found, default=None)


def document(run: Run) -> dict[str, Any]:
    """All of it, as JSON."""
    return {
        "summary": summary(run),
        "setting": run.setting,
        "skipped": run.skipped,
        "notes": run.notes,
        "push_ms": {str(size): _figures(figures) for size, figures in run.push.items()},
        "push_vs_raw_fsync": {
            str(size): {name: round(ratio(figures[RawFile.name], figure), 3) for name, figure in figures.items()}
            for size, figures in run.push.items()
            if RawFile.name in figures
        },
        "sample": {
            stage.label: {
                "records": stage.records,
                "record_bytes": stage.record_bytes,
                "live_bytes": stage.live_bytes,
                "http_answer_bytes": stage.answer_bytes,
                "warm": _figures(stage.warm),
                "cold": _figures(stage.cold),
                "http_ahead_by": {
                    name: round(ratio(figure, stage.warm[OverHttp.name]), 3) for name, figure in stage.warm.items()
                },
                "cached_when_warm": stage.cached_when_warm,
                "cached_after_forgetting": stage.cached_after_forgetting,
                "content_bytes_per_record": stage.content_bytes,
                "disk_over_live": stage.disk_over_live,
                "resident_bytes": stage.resident,
            }
            for stage in run.stages
        },
        "scale": None if run.scale is None else _scale(run.scale),
        "churn": [
            asdict(churn)
            | {
                "write_amplification_of_accepted": churn.amplification_of_accepted,
                "write_amplification_of_pushed": churn.amplification_of_pushed,
                "disk_over_limit": churn.disk_over_limit,
            }
            for churn in run.churns
        ],
    }


def _figures(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.document() for name, figure in figures.items()}


def _scale(scale: Scale) -> dict[str, Any]:
    return {
        "records": scale.records,
        "payload_bytes": scale.payload_bytes,
        "latency": _figures(scale.latency),
        "latency_many_over_few": scale.latency_ratio,
        "open_seconds": scale.open_seconds,
        "open_cold_seconds": scale.open_cold_seconds,
        "resident_empty": scale.empty_resident,
        "resident_opened": scale.opened_resident,
        "resident_sampled": scale.sampled_resident,
        "index_bytes_per_record": scale.index_bytes_per_record,
        "index_bytes_per_record_after_sampling": scale.index_bytes_per_record_sampled,
    }


def markdown(run: Run) -> str:
    """The tables."""
    parts = [f"# Storage benchmark, {run.setting['date']}", _setting(run)]
    if MEDIUM in run.notes:
        parts.append(run.notes[MEDIUM])
    found = summary(run)
    parts += ["## What is promised", table(["figure", "found", "wanted"], _promises(found))]
    sizes = list(run.push)
    rows = [
        [name, *(_spread(run.push[size][name]) for size in sizes), run.notes.get(name, "")]
        for name in run.push[sizes[0]]
    ]
    parts += [
        "## Push, milliseconds",
        "Median and quartiles. On disk when it returns, except where the note says otherwise.",
        table(["", *(f"{size} records" for size in sizes), ""], rows),
    ]
    for stage in run.stages:
        parts += [f"## Sample of {run.setting['batch']} from {stage.label}", _stage_text(stage), _stage_table(stage)]
    if run.scale:
        parts += ["## A store of many records", _scale_table(run.scale)]
    if run.churns:
        parts += ["## Pushing many times the budget", _churn_table(run.churns)]
    if run.skipped:
        parts += ["## Left out", "\n".join(f"- {name}: {why}" for name, why in run.skipped.items())]
    return "\n\n".join(parts) + "\n"


def _promises(found: Mapping[str, float | None]) -> list[list[str]]:
    return [[f"`{name}`", "-" if value is None else f"{value:g}", _WANTED[name]] for name, value in found.items()]


def _setting(run: Run) -> str:
    machine, versions = run.setting["machine"], run.setting["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}; "
        f"{run.setting['file_system']}; Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". {run.setting['rounds']} rounds, contestants in turn; {run.setting['cold_how']}."
    )


def _stage_text(stage: SampleStage) -> str:
    kept = max(stage.cached_after_forgetting.values(), default=0.0)
    text = f"Milliseconds, median and quartiles; an answer over HTTP is {stage.answer_bytes / 1e6:.2f} MB on average."
    text += f" Warm: at least {min(stage.cached_when_warm.values(), default=0.0):.0%} in the page cache."
    if stage.cold:
        text += f" Cold: at most {kept:.1%} of a contestant's bytes were left in the page cache."
    for name, num_bytes in stage.resident.items():
        held = stage.content_bytes.get(name, stage.live_bytes // stage.records) * stage.records / 2**20
        text += f" Resident memory of {name}: {num_bytes / 2**20:,.0f} MiB for {held:,.0f} MiB stored."
    return text


def _stage_table(stage: SampleStage) -> str:
    ours = stage.warm[OverHttp.name]
    rows = []
    for name, figure in sorted(stage.warm.items(), key=lambda item: item[1].median):
        cold, disk, held = stage.cold.get(name), stage.disk_over_live.get(name), stage.content_bytes.get(name)
        rows.append(
            [
                name,
                _spread(figure),
                "-" if cold is None else _spread(cold),
                f"{ratio(figure, ours):.2f}",
                "-" if held is None else f"{held:,}",
                "-" if disk is None else f"{disk:.2f}",
            ]
        )
    return table(["", "warm", "cold", f"warm / {OverHttp.name}", "bytes a record", "disk / live bytes"], rows)


def _scale_table(scale: Scale) -> str:
    rows = [
        [
            f"sample, {key}, few -> many",
            f"{_spread(scale.latency[f'{key}, few'])} -> {_spread(scale.latency[f'{key}, many'])} ms: x {value:.2f}",
        ]
        for key, value in scale.latency_ratio.items()
    ]
    cold = "-" if scale.open_cold_seconds is None else f"{scale.open_cold_seconds:.2f} s"
    rows += [
        ["records", f"{scale.records:,}"],
        ["open, page cache warm", f"{statistics.median(scale.open_seconds):.2f} s"],
        ["open, cold", cold],
        ["resident memory, empty store", f"{scale.empty_resident / 2**20:.1f} MiB"],
        ["resident memory, opened", f"{scale.opened_resident / 2**20:.1f} MiB"],
        ["resident memory, sampled", f"{scale.sampled_resident / 2**20:.1f} MiB"],
        ["index bytes a record, opened", f"{scale.index_bytes_per_record:.0f}"],
        ["index bytes a record, sampled", f"{scale.index_bytes_per_record_sampled:.0f}"],
    ]
    return table(["", ""], rows)


def _churn_table(churns: Sequence[ChurnResult]) -> str:
    rows = []
    for churn in churns:
        accepted, pushed = churn.amplification_of_accepted, churn.amplification_of_pushed
        rows.append(
            [
                churn.label,
                f"{churn.budget_bytes / 2**20:g}",
                f"{churn.pushed_bytes / 2**20:,.0f}",
                f"{churn.accepted_bytes / 2**20:,.0f}",
                "-" if churn.written_bytes is None else f"{churn.written_bytes / 2**20:,.0f}",
                "-" if accepted is None else f"{accepted:.2f}",
                "-" if pushed is None else f"{pushed:.2f}",
                f"{churn.disk_over_limit:.2f}",
                f"{churn.seconds / churn.pushes * 1e3:.1f}",
                f"{(churn.resident_after - churn.resident_before) / 2**20:+.0f}",
            ]
        )
    head = [
        "",
        "budget MiB",
        "pushed",
        "accepted",
        "written",
        "written / accepted",
        "written / pushed",
        "highest disk / limit",
        "ms a push",
        "resident memory, MiB",
    ]
    return table(head, rows)


def _spread(figure: Figure) -> str:
    first, third = figure.quartiles
    return f"{_short(figure.median)} ({_short(first)}-{_short(third)})"


def _short(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
