"""The two charts of the paper: accuracy, and exemplars held, against the size of the memory."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.learner_report import Results, rows


def chart(results: Results, path: Path) -> None:
    """A row of panels for each number of phases; methods that store nothing are left out."""
    phases = list(dict.fromkeys(job.num_phases for job in results))
    memories = sorted({job.memory for job in results})
    canvas = Figure(figsize=(11, 4.2 * len(phases)), layout="constrained")
    FigureCanvasAgg(canvas)
    for (left, right), number in zip(canvas.subplots(len(phases), 2, squeeze=False), phases, strict=True):
        tables = {memory: rows(results, num_phases=number, memory=memory) for memory in memories}
        methods = dict.fromkeys(
            row.method
            for table in tables.values()
            for row in table
            if row.exemplars_per_class and "+no-" not in row.method
        )
        for method in methods:
            found = [(m, row) for m, table in tables.items() for row in table if row.method == method]
            sizes = [memory for memory, _ in found]
            means = [100 * row.last.mean() for _, row in found]
            spreads = [100 * row.last.std(ddof=1) if len(row.last) > 1 else 0.0 for _, row in found]
            emphasis = {"linewidth": 2.2, "zorder": 3} if method == "masked" else {"linewidth": 1.2}
            left.errorbar(sizes, means, yerr=spreads, marker="o", capsize=2, label=method, **emphasis)
            right.plot(sizes, [row.exemplars_per_class for _, row in found], marker="o", label=method, **emphasis)
        left.set_ylabel("last accuracy, %  (bars: deviation over seeds)")
        right.set_ylabel("exemplars a class")
        for axes in (left, right):
            axes.set_title(f"{number} phases", loc="left", fontsize=10)
            axes.set_xlabel("memory, full samples a class")
            axes.set_xticks(memories)
            axes.grid(alpha=0.3)
        right.legend(fontsize=8, frameon=False)
    canvas.savefig(path, dpi=110)
