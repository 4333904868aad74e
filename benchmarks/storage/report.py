"""The tables of a storage run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from benchmarks.common.document import Document
from benchmarks.common.rounds import Figure, ratio
from benchmarks.common.tables import table
from benchmarks.storage.churn import ChurnResult
from benchmarks.storage.contestants.ours import OverHttp
from benchmarks.storage.run import MEDIUM, Run
from benchmarks.storage.scale import Scale
from benchmarks.storage.stages import SampleStage

_WANTED = {
    "http_sample_vs_uvicorn": ">= 0.8",
    "http_sample_vs_torchrl": ">= 2",
    "http_sample_vs_reverb": "> 1",
    "http_sample_vs_torchrl_same_bytes": "-",
    "http_sample_vs_reverb_same_bytes": "-",
    "http_sample_decoded_vs_torchrl": "-",
    "decoded_warm_vs_torchrl_pixels": ">= 1",
    "decoded_cold_vs_decoder": "<= 1.2",
    "local_vs_pread": ">= 0.6",
    "local_ahead_vs_pread": "-",
    "local_vs_torchrl_same_bytes": ">= 3",
    "sample_latency_1e6_vs_1e3": "<= 1.3",
    "open_1e6_seconds": "< 5",
    "index_bytes_per_record": "<= 250",
    "push_vs_raw_fsync": ">= 0.5",
    "push_decoded_vs_raw_fsync": "-",
    "write_amplification": "<= 2",
    "disk_over_limit": "<= 1",
}


RUN = TypeAdapter(Run)


def markdown(kept: Document) -> str:
    """The tables."""
    run = RUN.validate_python(kept.found)
    parts = [kept.heading("Storage benchmark"), _how(run)]
    if MEDIUM in run.notes:
        parts.append(run.notes[MEDIUM])
    parts += ["## What is promised", table(["figure", "found", "wanted"], _promises(kept.summary))]
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
        parts += [f"## Sample of {run.plan['batch']} from {stage.label}", _stage_text(stage), _stage_table(stage)]
    if run.scale:
        parts += ["## A store of many records", _scale_table(run.scale)]
    if run.churns:
        parts += ["## Pushing many times the budget", _churn_table(run.churns)]
    if run.skipped:
        parts += ["## Left out", "\n".join(f"- {name}: {why}" for name, why in run.skipped.items())]
    return "\n\n".join(parts) + "\n"


def _promises(found: Mapping[str, float | None]) -> list[list[str]]:
    return [[f"`{name}`", "-" if value is None else f"{value:g}", _WANTED[name]] for name, value in found.items()]


def _how(run: Run) -> str:
    return f"{run.file_system}. {run.plan['rounds']} rounds, contestants in turn; {run.cold_how}."


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
