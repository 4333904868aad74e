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
OURS = "masked"
GOAL = 0.03


def summary(run: Run) -> dict[str, Any]:
    """By strategy, masked exemplars over each of the library's own ways: mean and interval of last accuracy."""
    found: dict[str, Any] = {"goal": GOAL}
    for strategy in run.strategies:
        gains = {way: run.gain(strategy, OURS, way) for way in run.own}
        found[strategy] = {
            "best_own": run.best_own(strategy),
            "over": {way: {"mean": gain.mean, "interval": gain.interval} for way, gain in gains.items()},
        }
    return found


def markdown(kept: Document) -> str:
    """A table a strategy, and below each what is ahead."""
    run = RUN.validate_python(kept.found)
    first, end = run.classes
    told = (
        f"Classes {first + 1} to {end} of MM-Emoji-R, pictures alone; {run.budget_bytes:,} bytes for each way; "
        f"{len(run.seeds)} seeds, mean ± deviation, %. Differences are paired by seed, with their 95 % interval. "
        f"Chance is {100 / (end - first):.1f}."
    )
    parts = [kept.heading("Gain inside Avalanche"), told]
    for strategy, words in run.strategies.items():
        parts += [f"## {words}", _table(run, strategy), _verdict(run, strategy)]
    return "\n\n".join(parts) + "\n"


def _table(run: Run, strategy: str) -> str:
    best = run.best_own(strategy)
    head = ["stored", "items", "bytes", "last", "average", "last, masked over it", "average, masked over it"]
    rows = []
    for way, words in run.ways.items():
        scores = run.of(strategy, way)
        gains = [
            "" if way == OURS else gap_points(run.gain(strategy, OURS, way, figure)) for figure in ("last", "average")
        ]
        rows.append(
            [
                f"**{words}**" if way in (OURS, best) else words,
                f"{sum(score.exemplars for score in scores) / len(scores):.0f}",
                f"{sum(score.bytes_held for score in scores) / len(scores):,.0f}",
                points(spread([score.last for score in scores])),
                points(spread([score.average for score in scores])),
                *gains,
            ]
        )
    return table(head, rows)


def _verdict(run: Run, strategy: str) -> str:
    best = run.best_own(strategy)
    gain = run.gain(strategy, OURS, best)
    reached = "yes" if gain.mean >= GOAL and gain.excludes_zero else "no"
    return (
        f"Over the best of the library's own, {run.ways[best]}, chosen on the test itself: {gap_points(gain)} points. "
        f"At least {100 * GOAL:.0f} with an interval above zero: {reached}."
    )


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
