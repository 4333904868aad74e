"""The figures of a finished run, as data and as the table at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from learner.memory.settings import MemoryConfig
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics, forgetting
from learner.run.methods import parse_method

Figure = TypeVar("Figure")

Results = Mapping[str, Sequence[PhaseMetrics]]
"""By method, its phases."""


@dataclass(frozen=True)
class MethodSummary(Generic[Figure]):
    """Of one run or, with a spread in the place of each number, of several seeds. Shares in [0, 1]: ``last`` after the
    last phase, ``average`` over the phases, ``forgetting``; exemplars and bytes after the last phase."""

    last: Figure
    average: Figure
    forgetting: Figure
    exemplars: Figure
    bytes_used: Figure
    bytes_per_exemplar: Figure


def summarise(lines: Sequence[PhaseMetrics]) -> MethodSummary[float]:
    """The figures of one method from its phases."""
    last = lines[-1]
    return MethodSummary(
        last=last.accuracy,
        average=float(np.mean([line.accuracy for line in lines])),
        forgetting=forgetting([line.by_phase for line in lines]),
        exemplars=last.exemplars,
        bytes_used=last.bytes_used,
        bytes_per_exemplar=last.bytes_per_exemplar,
    )


def summary_json(
    config: LearnerConfig,
    results: Results,
    seconds: float,
    *,
    buffers: Mapping[str, str],
    classes: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """What ``summary.json`` holds.

    Args:
        seconds: training, masking, pushing and evaluating, over all invocations.
        buffers: by method, what its buffer is called.
        classes: names of each phase's.
    """
    phases = max(len(lines) for lines in results.values())
    methods: dict[str, Any] = {method: asdict(summarise(lines)) for method, lines in results.items()}
    return {
        "phases": phases,
        "budget_bytes": max(lines[-1].budget_bytes for lines in results.values()),
        "seconds": round(seconds, 1),
        **methods,
        "buffers": dict(buffers),
        "classes": [list(names) for names in classes],
        "config": config.to_dict(),
    }


def seconds_spent(results: Results) -> float:
    """Seconds of work in all phases; the base phase that methods share is counted once."""
    total = 0.0
    base = 0.0
    for method, lines in results.items():
        shares_base = parse_method(method).shares_base
        for line in lines:
            work = line.mask_seconds + line.push_seconds + line.evaluate_seconds
            if line.phase == 0 and shares_base:
                base = line.train_seconds
            else:
                work += line.train_seconds
            total += work
    return total + base


def label(method: str) -> str:
    """A method's name in words."""
    return parse_method(method).label


def budget_words(memory: MemoryConfig) -> str:
    """The budget of a configuration in words."""
    if memory.grows:
        return f"{memory.full_samples_per_class} full samples of {memory.full_sample_bytes:,} bytes for each class seen"
    return f"{memory.budget_bytes:,} bytes"


def codec_words(config: LearnerConfig, methods: Iterable[str]) -> str:
    """The codecs that methods store pictures in, with their options, in words."""
    found = dict.fromkeys(
        _codec_words(method.configure(config).memory)
        for method in map(parse_method, methods)
        if method.stores not in ("nothing", "latent")
    )
    return " or ".join(found) or "no pictures"


def _codec_words(memory: MemoryConfig) -> str:
    options = dict(memory.codec) if memory.quality_rule == "fixed" else memory.codec | {"quality": "by MRDC's rule"}
    said = ", ".join(f"{name} {value}" for name, value in options.items() if name != "id")
    return f"{memory.codec['id']} {said}".strip()


def methods_table(
    title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], last: Sequence[float]
) -> Table:
    """Methods side by side.

    Args:
        columns: beside the methods' names.
        rows: by method, what stands in the columns.
        last: last accuracy of each method; the best is bold.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE)
    # Names of many parts wrap: cut off in a narrow terminal would be the figures otherwise.
    table.add_column("method", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for (method, row), reached in zip(rows.items(), last, strict=True):
        table.add_row(label(method), *row, style="bold" if reached == max(last) else "")
    return table


def budget_title(config: LearnerConfig, methods: Iterable[str]) -> str:
    """What is the same for all methods of a table, and in what they store."""
    return f"same budget for all: {budget_words(config.memory)}, {codec_words(config, methods)}"


def final_table(config: LearnerConfig, results: Results) -> Table:
    """Methods side by side at the same byte budget."""
    figures = {method: summarise(lines) for method, lines in results.items()}
    rows = {
        method: [
            f"{found.last:.3f}",
            f"{found.average:.3f}",
            f"{found.forgetting:.3f}",
            f"{found.exemplars}" if found.exemplars else "-",
            f"{found.bytes_used:,}" if found.exemplars else "-",
            f"{found.bytes_per_exemplar:,.0f}" if found.exemplars else "-",
        ]
        for method, found in figures.items()
    }
    title = budget_title(config, results)
    columns = ("last", "average", "forgetting", "exemplars", "bytes", "each")
    return methods_table(title[0].upper() + title[1:], columns, rows, [found.last for found in figures.values()])


def verdict(results: Results) -> str:
    """In words what masking brought. Of one seed: no more than the figures."""
    if "full" not in results or "masked" not in results:
        return ""
    full, masked = summarise(results["full"]), summarise(results["masked"])
    ratio = masked.exemplars / full.exemplars if full.exemplars else float("nan")
    return (
        f"Masked exemplars: {ratio:.1f} times as many as full images in the same bytes; last accuracy "
        f"{100 * masked.last:.1f} % against {100 * full.last:.1f} %. One seed does not settle which is better."
    )


def phase_line(metrics: PhaseMetrics, num_phases: int) -> str:
    """One phase in one line of a log."""
    old = "   -" if metrics.accuracy_old is None else f"{100 * metrics.accuracy_old:4.1f}"
    memory = (
        f"{metrics.exemplars:4d} exemplars, {metrics.bytes_used / 1000:.1f} kB" if metrics.exemplars else "no exemplars"
    )
    old += "" if metrics.others is None else f", others {100 * metrics.others:4.1f}"
    seconds = metrics.train_seconds + metrics.mask_seconds + metrics.push_seconds + metrics.evaluate_seconds
    return (
        f"{label(metrics.method):>16} phase {metrics.phase + 1}/{num_phases}: {100 * metrics.accuracy:4.1f} % "
        f"(new {100 * metrics.accuracy_new:4.1f}, old {old}), {memory}, {seconds:.0f} s"
    )
