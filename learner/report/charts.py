"""The page's charts, as SVG that takes its colours from the page's own variables and so follows light and dark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from learner.run.evaluate import PhaseMetrics
from learner.run.seeds import SeedResults
from learner.run.summary import label

INK, GRID = "#010203", "#010204"
"""Stand-ins that :func:`_svg` replaces by ``var(--ink)`` and ``var(--line)``; methods have :func:`_stand_in`."""

_LEGEND_CHARACTERS = 44
"""In a line of a legend, so that it is no wider than a chart."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Chart:
    """A drawing and the line below it."""

    svg: Markup
    caption: str


def accuracy_chart(runs: SeedResults) -> Chart:
    """Accuracy over the classes seen, by phase, with that of guessing."""
    figure, axes = _figure("classes seen", "accuracy, %")
    said = _lines(axes, runs, lambda line: line.classes_seen, lambda line: 100 * line.accuracy)
    seen = [line.classes_seen for line in next(iter(_by_method(runs).values()))[0]]
    guess = [100 / count for count in seen]
    axes.plot(seen, guess, "--", color=INK, linewidth=1, label="chance")
    axes.set_ylim(0, 100)
    words = f"Accuracy in percent after each phase: {'; '.join(said)}; chance {', '.join(f'{g:.1f}' for g in guess)}."
    caption = "Accuracy on all classes seen. Dashed: chance, that of guessing."
    return Chart(_svg(figure, axes, "accuracy", words), caption)


def bytes_chart(runs: SeedResults) -> Chart:
    """Bytes used by phase, with the budget."""
    figure, axes = _figure("phase", "kB used")
    said = _lines(axes, runs, lambda line: line.phase + 1, lambda line: line.bytes_used / 1000, stored=True)
    all_lines = [lines[0] for lines in _by_method(runs).values()]
    budgets = max(([line.budget_bytes / 1000 for line in lines] for lines in all_lines), key=max)
    axes.step(range(1, len(budgets) + 1), budgets, "--", color=INK, where="mid", linewidth=1, label="budget")
    axes.set_ylim(0, max([*budgets, 0.001]) * 1.1)  # no budget at all where nothing is stored
    words = f"Kilobytes used after each phase: {'; '.join(said) or 'nothing is stored'}; budget {budgets[-1]:.1f}."
    return Chart(_svg(figure, axes, "bytes", words), "What each memory uses of its budget (dashed).")


def exemplars_chart(runs: SeedResults) -> Chart | None:
    """Exemplars held by phase; None where nothing is stored."""
    figure, axes = _figure("phase", "exemplars held")
    said = _lines(axes, runs, lambda line: line.phase + 1, lambda line: line.exemplars, stored=True, digits=0)
    if not said:
        return None
    axes.set_ylim(0)
    words = f"Exemplars held after each phase: {'; '.join(said)}."
    return Chart(_svg(figure, axes, "exemplars", words), "How many exemplars fit into those bytes.")


def _lines(
    axes: Axes,
    runs: SeedResults,
    place_of: Callable[[PhaseMetrics], int],
    figure_of: Callable[[PhaseMetrics], float],
    *,
    stored: bool = False,
    digits: int = 1,
) -> list[str]:
    """A line for each method, with ``stored`` of those that store anything: the mean over the seeds; where there are
    several, a band from the lowest to the highest and a dot for each. Returns what they show in words."""
    said = []
    for number, (method, lines) in enumerate(_by_method(runs).items()):
        if stored and not lines[0][-1].exemplars:
            continue
        places, colour = [place_of(line) for line in lines[0]], _stand_in(number)
        values = np.array([[figure_of(line) for line in of_seed] for of_seed in lines])
        means = values.mean(0)
        marker, name = "os^Dv"[number % 5], label(method)
        axes.plot(places, means, marker=marker, color=colour, linewidth=2, markersize=5, label=name)
        if len(values) > 1:
            axes.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
            for of_seed in values:
                axes.plot(places, of_seed, ".", color=colour, markersize=3, alpha=0.8)
        said.append(f"{name} {', '.join(f'{mean:.{digits}f}' for mean in means)}")
    return said


def _by_method(runs: SeedResults) -> dict[str, list[Sequence[PhaseMetrics]]]:
    """The phases of each seed, by method."""
    results: Sequence[Mapping[str, Sequence[PhaseMetrics]]] = list(runs.values())
    return {method: [each[method] for each in results] for method in results[0]}


def _figure(across: str, up: str) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.grid(linewidth=0.8)
        axes.set_axisbelow(True)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, which names of many parts would cover, and the figure as much taller: two side by side, one below
    the other where that is too wide, and over several lines where one alone is."""
    handles, names = axes.get_legend_handles_labels()
    wrapped = [textwrap.fill(name, _LEGEND_CHARACTERS) for name in names]
    for columns, shown in ((2, names), (1, names), (1, wrapped)):
        with matplotlib.rc_context(_STYLE):
            legend = figure.legend(
                handles, shown, loc="outside lower center", ncols=columns, frameon=False, fontsize="medium"
            )
        if shown is wrapped or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    num_lines = sum(name.count("\n") + 1 for name in shown)
    figure.set_figheight(figure.get_figheight() + 0.22 * -(-num_lines // columns))


def _stand_in(method: int) -> str:
    return f"#0a0b{method:02x}"


def _svg(figure: Figure, axes: Axes, name: str, words: str) -> Markup:
    """The drawing, its ids its own on the page, its colours the page's, and what it shows in words."""
    _legend(figure, axes)
    buffer = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    drawing = re.sub(r"#0a0b([0-9a-f]{2})", lambda found: f"var(--method-{int(found[1], 16)})", drawing)
    drawing = drawing.replace(INK, "var(--ink)").replace(GRID, "var(--line)")
    return Markup(drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1))
