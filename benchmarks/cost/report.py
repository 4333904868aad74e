"""The tables of a cost run."""

from __future__ import annotations

from pydantic import TypeAdapter

from benchmarks.common.document import Document
from benchmarks.common.rounds import Figure, ratio
from benchmarks.common.tables import table
from benchmarks.cost.run import BEFORE, Run

RUN = TypeAdapter(Run)

WANTED = {
    "step_beside_busy_vs_alone": "<= 1.8",
    "two_learners_vs_one": ">= 0.9",
    "peak_rss_vs_before": "<= 0.4",
    "demo_seconds_vs_before": "<= 1.0",
    "service_peak_rss_vs_before": "about 1.0",
    "replay_step_vs_tensors": "<= 1.01",
    "replay_wait_share": "< 0.005",
}


def markdown(kept: Document) -> str:
    """The tables."""
    run = RUN.validate_python(kept.found)
    promises = [
        [f"`{name}`", "not measured" if value is None else f"{value:.4g}", WANTED[name]]
        for name, value in kept.summary.items()
    ]
    busy = f"As it began, other processes kept {run.busy:.1f} cores busy."
    parts = [
        kept.heading("Cost benchmark"),
        busy,
        "## What is promised",
        table(["figure", "found", "wanted"], promises),
    ]
    parts += ["## Beside others", _beside(run), _together(run)]
    if run.peaks:
        parts += [f"## Memory of a demo (seeds: {run.seeds}), this build and {BEFORE}", _peaks(run)]
    parts += ["## Replay", _replay(run), "## Masks", _masks(run)]
    if run.skipped:
        parts += ["## Left out", "\n".join(f"- {why}" for why in run.skipped)]
    return "\n\n".join(parts) + "\n"


def _beside(run: Run) -> str:
    found = run.beside
    rows = [
        [name, str(threads), _milliseconds(figure, found.batch_size), f"{ratio(figure, found.alone):.3f}"]
        for name, threads, figure in (
            ("alone", found.first_threads, found.alone),
            ("the same, beside a busy process", found.first_threads, found.first),
            ("begun beside a busy process, and beside it", found.second_threads, found.second),
        )
    ]
    return table(["a learner", "threads", "ms a step", "over alone"], rows)


def _together(run: Run) -> str:
    shown = ", ".join(f"{value:.3f}" for value in run.beside.together)
    return f"Both learners at once, samples a second over those of the first alone, round by round: {shown}."


def _peaks(run: Run) -> str:
    rows = [
        [name, f"{peak.learner_mib:,.0f}", f"{peak.service_mib:,.0f}", f"{peak.seconds:,.0f}"]
        for name, peak in run.peaks.items()
    ]
    return table(["build", "learner, MiB", "service, MiB", "learner, seconds"], rows)


def _replay(run: Run) -> str:
    rows = [
        [
            name,
            f"{each.record_bytes:,.0f}",
            _milliseconds(each.tensors, 1 / each.num_steps),
            _milliseconds(each.service, 1 / each.num_steps),
            f"{ratio(each.service, each.tensors):.4f}",
            f"{100 * each.waited:.2f} %",
        ]
        for name, each in run.replay.items()
    ]
    head = ["exemplars", "bytes each", "ms a step, tensors", "ms a step, service", "service over tensors", "waiting"]
    return table(head, rows)


def _masks(run: Run) -> str:
    plain = run.masks["forward"]
    rows = [[name, f"{ratio(figure, plain):.3f}"] for name, figure in run.masks.items() if figure is not plain]
    speed = f"A plain pass takes {1e3 * plain.median / run.num_samples:.1f} ms a sample."
    return f"{table(['', 'over a plain forward pass'], rows)}\n\n{speed}"


def _milliseconds(figure: Figure, times: float) -> str:
    first, third = (1e3 * times * value for value in figure.quartiles)
    return f"{1e3 * times * figure.median:.1f} [{first:.1f}, {third:.1f}]"
