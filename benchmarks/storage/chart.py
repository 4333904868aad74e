"""The chart of a run: who draws and pushes how fast."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from benchmarks.common.document import Document
from benchmarks.storage.report import RUN


def chart(kept: Document, path: Path) -> None:
    """Warm and cold draws from the largest store of full records, and the largest push, side by side."""
    run = RUN.validate_python(kept.found)
    stage = run.stages[min(1, len(run.stages) - 1)]
    size = max(run.push)
    panels = [
        (f"sample {run.plan['batch']} of {stage.label}, warm", stage.warm),
        (f"sample {run.plan['batch']} of {stage.label}, cold", stage.cold),
        (f"push {size} records", run.push[size]),
    ]
    canvas = Canvas(figsize=(9, 10), layout="constrained")
    FigureCanvasAgg(canvas)
    drawn = [(title, figures) for title, figures in panels if figures]
    for axes, (title, figures) in zip(
        canvas.subplots(len(drawn), 1, squeeze=False, height_ratios=[len(f) for _, f in drawn])[:, 0],
        drawn,
        strict=True,
    ):
        names = sorted(figures, key=lambda name: figures[name].median, reverse=True)
        medians = [figures[name].median * 1e3 for name in names]
        spread = [
            [abs(figures[name].quartiles[side] * 1e3 - m) for name, m in zip(names, medians, strict=True)]
            for side in (0, 1)
        ]
        # Points, not bars: on a log scale a bar's length means nothing.
        for place, (name, median) in enumerate(zip(names, medians, strict=True)):
            axes.errorbar(
                median,
                place,
                xerr=[[spread[0][place]], [spread[1][place]]],
                fmt="o",
                capsize=2,
                color="tab:orange" if name.startswith("ours") else "dimgrey",
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("milliseconds, median and quartiles")
    canvas.savefig(path, dpi=110)
