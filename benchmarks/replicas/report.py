"""Tables and chart of a run with replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from benchmarks.common.document import Document
from benchmarks.common.tables import table
from benchmarks.replicas.run import DRAWN, KINDS, PUSHED, Load, Run

RUN = TypeAdapter(Run)


def summary(run: Run) -> dict[str, Any]:
    """Ratios, and milliseconds of eight learners: median and the 99th of 100."""
    most = {kind: max(run.loads[kind]) for kind in KINDS}
    return {
        "aggregate_8_vs_1": {kind: run.loads[kind][most[kind]].moved / run.loads[kind][1].moved for kind in KINDS},
        "replica_scaling": None if run.one is None or run.two is None else run.two.moved / run.one.moved,
        "push_beside_vs_alone": {kind: run.beside[kind].pushed / run.alone[kind].pushed for kind in KINDS},
        "sample_beside_vs_alone": {
            kind: run.samplers_beside[kind].sampled / found.sampled for kind, found in run.samplers.items()
        },
        "draw_vs_embedded": run.draw_ms["replicas"] / run.draw_ms["embedded"],
        "push_1000_vs_embedded": run.push_ms["replicas"] / run.push_ms["embedded"],
        "round_trips": run.round_trips,
        "sample_ms": {kind: run.loads[kind][most[kind]].sample_ms for kind in KINDS},
        "push_ms": {kind: run.loads[kind][most[kind]].push_ms for kind in KINDS},
    }


def markdown(kept: Document) -> str:
    """The tables."""
    run = RUN.validate_python(kept.found)
    loads = [
        _row(f"{kind}, {number} learner{'s' * (number > 1)}", found)
        for kind in KINDS
        for number, found in run.loads[kind].items()
    ]
    for kind in KINDS:
        loads.append(_row(f"{kind}, one that pushes alone", run.alone[kind]))
        loads.append(_row(f"{kind}, the same beside four that sample", run.beside[kind]))
        # Results from before they were measured have none.
        if kind in run.samplers:
            loads.append(_row(f"{kind}, those four alone", run.samplers[kind]))
            loads.append(_row(f"{kind}, the same beside the one that pushes", run.samplers_beside[kind]))
    loads += [
        _row(f"replicas, {what}", found)
        for what, found in (("a core, four learners", run.one), ("two cores, eight learners", run.two))
        if found is not None
    ]
    head = ["", "pushed, records/s", "sampled, records/s", "push, ms: median, p99", "sample, ms: median, p99"]
    head.append("cores of the learners")
    single = [
        [
            what,
            *(f"{found[kind]:.2f}" for kind in KINDS),
            f"{found['replicas'] / found['embedded']:.2f}",
            str(run.round_trips[name]),
        ]
        for what, name, found in (
            (f"draw of {DRAWN}", "draw", run.draw_ms),
            (f"push of {PUSHED:,}", "push", run.push_ms),
        )
    ]
    told = f"Each load lasts {run.seconds:g} s. `replicas` are two processes, on the machine of all others."
    alone = (
        "One client, and one replica: medians in ms, and how often it asks the database. A push does so once for all "
        "that it uploads, and once behind its answer."
    )
    return (
        "\n\n".join(
            [
                kept.heading("Replicas benchmark"),
                told,
                table(head, loads),
                alone,
                table(["", *KINDS, "ratio", "round trips"], single),
            ]
        )
        + "\n"
    )


def _row(name: str, found: Load) -> list[str]:
    shown = [f"{half:.1f}, {most:.1f}" if half else "" for half, most in (found.push_ms, found.sample_ms)]
    rates = (f"{rate:,.0f}" if rate else "" for rate in (found.pushed, found.sampled))
    return [name, *rates, *shown, f"{found.cores:.2f}" if found.cores else ""]


def chart(kept: Document, path: Path) -> None:
    """Records a second by the number of learners."""
    run = RUN.validate_python(kept.found)
    canvas = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    for kind in KINDS:
        axes.plot(list(run.loads[kind]), [found.moved for found in run.loads[kind].values()], "o-", label=kind)
    axes.set_xlabel("learners")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.set_title("Records a second, pushed and sampled", loc="left", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    canvas.savefig(path, dpi=110)
