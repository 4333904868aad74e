"""Pictures of a learner benchmark: methods side by side, and the two charts of the paper, accuracy and exemplars held
against the size of the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.common.document import Document
from benchmarks.learner.plans import REFERENCE_MEMORY
from benchmarks.learner.report import RUN
from benchmarks.learner.run import Row

_RECOMMENDED = "masked"


def chart(kept: Document, path: Path) -> None:
    """For each number of phases a row of bars, and where there are several memory sizes a row of lines below."""
    run = RUN.validate_python(kept.found)
    tables: dict[int, dict[int, list[Row]]] = {}
    for found in sorted(run.tables, key=lambda table: table.memory):
        tables.setdefault(found.phases, {})[found.memory] = found.rows
    memories = {found.memory for found in run.tables}
    heights = [height for _ in tables for height in ([5.5, 4.2] if len(memories) > 1 else [5.5])]
    canvas = Figure(figsize=(11, sum(heights)), layout="constrained")
    FigureCanvasAgg(canvas)
    if run.conditions:  # of all panels, which are too narrow for many settings
        canvas.suptitle(run.conditions.removesuffix(", "), x=0.01, ha="left", fontsize=10)
    panels = iter(canvas.subplots(len(heights), 2, squeeze=False, height_ratios=heights))
    for number, table in tables.items():
        memory = REFERENCE_MEMORY if REFERENCE_MEMORY in table else min(table)
        left, right = next(panels)
        _bars(left, right, table[memory], f"{number} phases, {memory} full samples a class")
        if len(memories) > 1:
            left, right = next(panels)
            _lines(left, right, table, f"{number} phases")
    canvas.savefig(path, dpi=110)


def _bars(left: Axes, right: Axes, table: Sequence[Row], title: str) -> None:
    places = np.arange(len(table))
    colours = ["tab:orange" if row.method.startswith(_RECOMMENDED) else "tab:blue" for row in table]
    left.barh(
        places,
        [100 * row.last.mean for row in table],
        xerr=[100 * (row.last.deviation or 0.0) for row in table],
        color=colours,
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    left.set_xlabel("last accuracy, %  (lines: deviation over seeds)")
    right.barh(places, [row.exemplars_per_class for row in table], color=colours)
    right.set_xlabel("exemplars a class")
    for axes in (left, right):
        axes.set_yticks(places, [row.method for row in table], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(axis="x", alpha=0.3)


def _lines(left: Axes, right: Axes, tables: Mapping[int, Sequence[Row]], title: str) -> None:
    """Of the methods that ran with every memory size."""
    by_method = [{row.method: row for row in table if row.exemplars_per_class} for table in tables.values()]
    for method in by_method[0]:
        if not all(method in table for table in by_method):
            continue
        found = [table[method] for table in by_method]
        means = [100 * row.last.mean for row in found]
        spreads = [100 * (row.last.deviation or 0.0) for row in found]
        width = 2.2 if method == _RECOMMENDED else 1.2
        left.errorbar(list(tables), means, yerr=spreads, marker="o", capsize=2, label=method, linewidth=width)
        right.plot(list(tables), [row.exemplars_per_class for row in found], marker="o", label=method, linewidth=width)
    left.set_ylabel("last accuracy, %  (lines: deviation over seeds)")
    right.set_ylabel("exemplars a class")
    for axes in (left, right):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("memory, full samples a class")
        axes.set_xticks(list(tables))
        axes.grid(alpha=0.3)
    right.legend(fontsize=8, frameon=False)
