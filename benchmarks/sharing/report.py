"""The table and the chart of a run with learners that share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from benchmarks.common.document import Document
from benchmarks.common.tables import table
from benchmarks.sharing.run import Run
from learner.run.seeds import gap_points, points, spread

RUN = TypeAdapter(Run)


def summary(run: Run) -> dict[str, Any]:
    """Means over the seeds; ``least_others``: the worst of all seeds and learners."""
    return {
        "others": {name: float(np.mean(learner.others)) for name, learner in run.learners.items()},
        "least_others": min(min(learner.others) for learner in run.learners.values()),
        "chance": 1 / sum(len(learner.classes) for learner in run.learners.values()),
        "gain": {name: float(np.mean(run.gains(name))) for name in run.learners},
    }


def markdown(kept: Document) -> str:
    """The table."""
    run = RUN.validate_python(kept.found)
    rows = [
        [
            name,
            points(spread(learner.own_alone)),
            "0.0",
            points(spread(learner.own)),
            points(spread(learner.others)),
            gap_points(spread(run.gains(name))),
        ]
        for name, learner in run.learners.items()
    ]
    head = ["learner", "own, alone", "other's, alone", "own, shared", "other's, shared", "all, shared over alone"]
    number = sum(len(learner.classes) for learner in run.learners.values())
    told = (
        f"Last accuracy in percent, mean ± deviation of {len(run.seeds)} seeds; `{run.method}`, "
        f"{run.budget_bytes:,} bytes a buffer. Shared, a learner is asked for one of all {number} classes (chance is "
        f"{100 / number:.1f}), alone for one of its own; it cannot name the others then."
    )
    if run.addresses > 1:
        told += f" Of {run.addresses} replicas, each learner asks one of its own."
    names = "\n".join(f"- {name}: {', '.join(learner.classes)}" for name, learner in run.learners.items())
    return "\n\n".join([kept.heading("Sharing benchmark"), told, table(head, rows), names]) + "\n"


def chart(kept: Document, path: Path) -> None:
    """Bars: what each learner knows of its own and of the other's classes, alone and shared; a dot a seed."""
    run = RUN.validate_python(kept.found)
    canvas = Figure(figsize=(6.5, 3), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    bars = {
        f"{name}: {what}": values
        for name, learner in run.learners.items()
        for what, values in (
            ("own, alone", learner.own_alone),
            ("own, shared", learner.own),
            ("other's, alone", [0.0]),
            ("other's, shared", learner.others),
        )
    }
    axes.barh(list(bars), [100 * float(np.mean(values)) for values in bars.values()], color="C0", alpha=0.7)
    for name, values in bars.items():
        axes.plot([100 * value for value in values], [name] * len(values), ".", color="black")
    axes.invert_yaxis()
    axes.set_title("Accuracy, %", loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    canvas.savefig(path, dpi=110)
