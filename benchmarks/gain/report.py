"""The tables and the chart of a run inside Avalanche."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from benchmarks.common.document import Document
from benchmarks.common.tables import table
from benchmarks.gain.found import Run
from learner.run.seeds import gap_points, points, spread

RUN = TypeAdapter(Run)
GOAL = 0.03


def summary(run: Run) -> dict[str, Any]:
    """By strategy, each way of the service over each of the library's own: mean and interval of last accuracy."""
    found: dict[str, Any] = {"goal": GOAL}
    for strategy in run.strategies:
        found[strategy] = {"best_own": run.best_own(strategy)}
        for way in run.service:
            gains = {own: run.gain(strategy, way, own) for own in run.own}
            found[strategy][way] = {own: {"mean": one.mean, "interval": one.interval} for own, one in gains.items()}
    return found


def markdown(kept: Document) -> str:
    """Two tables a strategy: what each way remembers, and what the service brings over each of the library's own."""
    run = RUN.validate_python(kept.found)
    first, end = run.classes
    told = (
        f"Classes {first + 1} to {end} of MM-Emoji-R, pictures alone; {run.budget_bytes:,} bytes for each way; "
        f"{len(run.seeds)} seeds, mean ± deviation, %. Differences are paired by seed, with their 95 % interval. "
        f"Chance is {100 / (end - first):.1f}."
    )
    if run.earlier:
        told += (
            " *Earlier*: seeds that an earlier call has trained; the commit and the seconds above may not be theirs."
        )
    parts = [kept.heading("Gain inside Avalanche"), told]
    for strategy, words in run.strategies.items():
        parts += [f"## {words}", _remembered(run, strategy), _gains(run, strategy), _verdicts(run, strategy)]
    return "\n\n".join(parts) + "\n"


def _remembered(run: Run, strategy: str) -> str:
    rows = []
    for way, words in run.ways.items():
        scores = run.of(strategy, way)
        row = [
            words,
            f"{sum(score.exemplars for score in scores) / len(scores):.0f}",
            f"{sum(score.bytes_held for score in scores) / len(scores):,.0f}",
            points(spread([score.last for score in scores])),
            points(spread([score.average for score in scores])),
        ]
        if run.earlier:
            row.append(", ".join(str(seed) for seed in run.seeds if (strategy, way, seed) in run.earlier))
        rows.append(row)
    heads = ["stored", "items", "bytes", "last", "average"]
    return table([*heads, "earlier"] if run.earlier else heads, rows)


def _gains(run: Run, strategy: str) -> str:
    rows = [[run.ways[own], *(gap_points(run.gain(strategy, way, own)) for way in run.service)] for own in run.own]
    return table(["last accuracy over", *(run.ways[way] for way in run.service)], rows)


def _verdicts(run: Run, strategy: str) -> str:
    best = run.best_own(strategy)
    said = [
        f"The best of the library's own, chosen on the test itself, is *{run.ways[best]}*. At least "
        f"{100 * GOAL:.0f} points over it, with an interval above zero:",
        "",
    ]
    for way in run.service:
        last, average = (run.gain(strategy, way, best, figure) for figure in ("last", "average"))
        reached = "yes" if last.mean >= GOAL and last.excludes_zero else "no"
        said.append(f"- {run.ways[way]}: **{reached}**, {gap_points(last)}; of average accuracy {gap_points(average)}.")
    return "\n".join(said)


def chart(kept: Document, path: Path) -> None:
    """Bars: last accuracy of each way, a panel a strategy; a dot a seed."""
    run = RUN.validate_python(kept.found)
    canvas = Figure(figsize=(3 + 3 * len(run.strategies), 0.9 + 0.3 * len(run.ways)), layout="constrained")
    FigureCanvasAgg(canvas)
    panels = canvas.subplots(1, len(run.strategies), sharey=True, squeeze=False)[0]
    for axes, (strategy, words) in zip(panels, run.strategies.items(), strict=True):
        for way, label in run.ways.items():
            values = [100 * score.last for score in run.of(strategy, way)]
            axes.barh(label, sum(values) / len(values), color="C7" if way in run.own else "C0", alpha=0.7)
            axes.plot(values, [label] * len(values), ".", color="black")
        axes.set_title(f"{words.split(' (')[0]}: last accuracy, %", loc="left", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    canvas.savefig(path, dpi=110)
