"""The table and the chart of a run of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from benchmarks.adapters.found import BATCH, Run
from benchmarks.common.document import Document
from benchmarks.common.tables import table

RUN = TypeAdapter(Run)
GOAL = 1.3


def summary(run: Run) -> dict[str, Any]:
    """Each contest's ratio, and the largest."""
    ratios = {f"{contest.library}, {contest.side} px": round(contest.ratio, 3) for contest in run.contests}
    return {"ratios": ratios, "largest": max(ratios.values()), "goal": GOAL}


def markdown(kept: Document) -> str:
    """The table."""
    run = RUN.validate_python(kept.found)
    rows = [
        [one.library, str(one.side), f"{one.own_ms:.2f}", f"{one.adapter_ms:.2f}", f"{one.ratio:.2f}"]
        for one in run.contests
    ]
    told = (
        f"A batch of {BATCH} pictures of {run.items} in the buffer, decoded already; medians of {run.rounds} rounds in "
        f"turn, one thread. At most {GOAL} is asked for."
    )
    head = ["library", "side, px", "own buffer, ms", "adapter, ms", "adapter over own"]
    return "\n\n".join([kept.heading("Adapters"), told, table(head, rows)]) + "\n"


def chart(kept: Document, path: Path) -> None:
    """Bars: the adapter's time over the library's own; a line at what is asked for."""
    run = RUN.validate_python(kept.found)
    canvas = Figure(figsize=(6.5, 3), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    axes.barh([f"{one.library}, {one.side} px" for one in run.contests], [one.ratio for one in run.contests], alpha=0.7)
    axes.axvline(GOAL, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_title("A batch through the adapter, over the library's own buffer", loc="left", fontsize=10)
    canvas.savefig(path, dpi=110)
