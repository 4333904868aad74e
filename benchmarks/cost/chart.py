"""The chart of a cost run: a step beside others, and the memory of a demo."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from benchmarks.common.document import Document
from benchmarks.common.rounds import ratio
from benchmarks.cost.report import RUN


def chart(kept: Document, path: Path) -> None:
    """Bars: what a step takes over one alone, and MiB of both builds where they were measured."""
    run = RUN.validate_python(kept.found)
    beside = run.beside
    steps = {
        "alone": 1.0,
        "beside a busy process": ratio(beside.first, beside.alone),
        "begun beside it": ratio(beside.second, beside.alone),
    }
    memory = {f"learner, {name}": peak.learner_mib for name, peak in run.peaks.items()}
    memory |= {f"service, {name}": peak.service_mib for name, peak in run.peaks.items()}
    panels = [("A training step, over one alone", steps), *([("Peak resident memory, MiB", memory)] if memory else [])]
    canvas = Canvas(figsize=(5.5 * len(panels), 3), layout="constrained")
    FigureCanvasAgg(canvas)
    for axes, (title, bars) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.barh(list(bars), list(bars.values()), color="C0")
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    canvas.savefig(path, dpi=110)
