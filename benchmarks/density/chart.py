"""The chart of a density run: quality against bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from benchmarks.common.document import Document
from benchmarks.density.plan import TARGET_PSNR_DB
from benchmarks.density.report import RUN
from benchmarks.density.run import PAPERS_RATIO, Row, headline


def chart(kept: Document, path: Path) -> None:
    """PSNR of the kept patches over bytes of an exemplar, everything counted: photographs, and emoji where measured."""
    run = RUN.validate_python(kept.found)
    panels = [("Photographs, 384 px", run.photos), ("MM-Emoji-R, the demo's size", run.emoji)]
    drawn = [(title, rows) for title, rows in panels if rows]
    canvas = Canvas(figsize=(6.2 * len(drawn), 5), layout="constrained")
    FigureCanvasAgg(canvas)
    # A family has one colour in all panels.
    families = dict.fromkeys(r.setting.family for _, rows in drawn for r in rows if not r.exact)
    colours = {family: f"C{number}" for number, family in enumerate(families)}
    for axes, (title, rows) in zip(canvas.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        _curves(axes, [r for r in rows if r.keep_ratio == PAPERS_RATIO and not r.exact], colours)
        axes.set_title(f"{title}, {PAPERS_RATIO:.0%} of the patches kept", loc="left", fontsize=10)
        axes.set_xlabel("bytes of an exemplar: header, masks, tokens, payload")
        axes.set_ylabel("PSNR of kept patches, dB")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    best = headline(run.photos)
    if best:
        axes = canvas.axes[0]
        axes.axhline(TARGET_PSNR_DB, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{best.per_jpeg:.1f} in the bytes of one\nfull sample as JPEG q95",
            (best.record_bytes, best.psnr_db),
            xytext=(-12, 28),
            textcoords="offset points",
            fontsize=8,
            ha="right",
            arrowprops={"arrowstyle": "->", "color": "grey"},
        )
    canvas.savefig(path, dpi=110)


def _curves(axes: Axes, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    for family in dict.fromkeys(row.setting.family for row in rows):
        points = sorted((r.record_bytes, r.psnr_db) for r in rows if r.setting.family == family)
        alone = len(points) == 1 or "target" in family
        look: dict[str, Any] = (
            {"marker": "*", "markersize": 9, "linestyle": "none"} if alone else {"marker": "o", "markersize": 4}
        )
        axes.plot(*zip(*points, strict=True), color=colours[family], label=family, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%d"))
    axes.xaxis.set_minor_formatter(NullFormatter())
