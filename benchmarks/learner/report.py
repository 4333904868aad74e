"""Figures of a learner benchmark: means and deviations over seeds, paired differences, tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.learner.plans import Job
from learner.run.methods import parse_method
from learner.run.phase_metrics import PhaseMetrics
from learner.run.spread import Spread, gap_points, paired, points, spread
from learner.run.summary import summarise

Results = Mapping[Job, Sequence[PhaseMetrics]]


@dataclass(frozen=True)
class Row:
    """One method at one memory size and number of phases, over seeds.

    Attributes:
        last, average, forgetting: over seeds, shares in [0, 1].
        exemplars_per_class, bytes_per_exemplar: after the last phase, means over seeds.
        modality: last accuracy with the picture or the text alone, means over seeds; empty for the references.
        seconds: of all runs.
    """

    method: str
    last: Spread
    average: Spread
    forgetting: Spread
    exemplars_per_class: float
    bytes_per_exemplar: float
    modality: dict[str, float]
    seconds: float


def rows(results: Results, *, num_phases: int, memory: int) -> list[Row]:
    """The rows of one table, in the order of the jobs."""
    chosen = [job for job in results if job.num_phases == num_phases and job.memory == memory]
    table = []
    for method in dict.fromkeys(job.method for job in chosen):
        lines = [results[job] for job in chosen if job.method == method]
        figures = [summarise(line) for line in lines]
        table.append(
            Row(
                method=method,
                last=spread([figure.last for figure in figures]),
                average=spread([figure.average for figure in figures]),
                forgetting=spread([figure.forgetting for figure in figures]),
                exemplars_per_class=float(np.mean([line[-1].exemplars / line[-1].classes_seen for line in lines])),
                bytes_per_exemplar=float(np.mean([figure.bytes_per_exemplar for figure in figures])),
                modality={
                    name: float(np.mean([line[-1].by_modality[name] for line in lines]))
                    for name in lines[0][-1].by_modality
                },
                seconds=sum(_seconds(line) for line in lines),
            )
        )
    return table


def best_full(table: Sequence[Row]) -> Row | None:
    """The whole-picture baseline with the best mean last accuracy: the one to beat, chosen on the test itself."""
    full = [row for row in table if parse_method(row.method).stores == "full"]
    return max(full, key=lambda row: row.last.mean, default=None)


def summary(table: Sequence[Row]) -> dict[str, Any]:
    """The last line of the output: figures by method."""
    reference = best_full(table)
    return {
        row.method: {
            "last": {"mean": row.last.mean, "std": row.last.deviation},
            "average": {"mean": row.average.mean, "std": row.average.deviation},
            "forgetting": {"mean": row.forgetting.mean, "std": row.forgetting.deviation},
            "exemplars_per_class": row.exemplars_per_class,
            "bytes_per_exemplar": row.bytes_per_exemplar,
            "paired_vs_best_full": None if reference is None else _difference(row, reference),
        }
        for row in table
    }


def markdown(table: Sequence[Row], title: str) -> str:
    """A table with its heading and, below it, whether masking paid."""
    reference = best_full(table)
    against = f"last, against {reference.method}" if reference else "last, paired"
    lines = [
        f"### {title}",
        "",
        f"| method | last | average | forgetting | a class | bytes each | {against} | picture / text alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        stored = row.bytes_per_exemplar > 0
        alone = [f"{100 * row.modality[name]:.1f}" for name in ("picture", "text") if row.modality]
        lines.append(
            f"| `{row.method}` | {points(row.last)} | {points(row.average)} | {points(row.forgetting)} "
            f"| {f'{row.exemplars_per_class:.1f}' if stored else '-'} "
            f"| {f'{row.bytes_per_exemplar:,.0f}' if stored else '-'} "
            f"| {'' if reference is None else gap_points(paired(row.last.values, reference.last.values))} "
            f"| {' / '.join(alone) or '-'} |"
        )
    return "\n".join([*lines, "", *verdicts(table)]) + "\n"


def verdicts(table: Sequence[Row]) -> list[str]:
    """``masked`` against each of its rivals in words; a loss is called one."""
    by_name = {row.method: row for row in table}
    masked, full = by_name.get("masked"), best_full(table)
    if masked is None:
        return []
    rivals = {
        "the best full images": full,
        "class-activation boxes": by_name.get("cim"),
        "random masks": by_name.get("random"),
    }
    said = []
    for name, rival in rivals.items():
        if rival is None:
            continue
        gap = paired(masked.last.values, rival.last.values)
        word = "ahead of" if gap.mean > 0 else "behind" if gap.mean < 0 else "level with"
        ending = "" if gap.excludes_zero else ("; one seed" if gap.interval is None else "; the interval holds zero")
        said.append(
            f"- Masked exemplars are {word} {name} (`{rival.method}`): {gap_points(gap)} points of last "
            f"accuracy{ending}."
        )
    return said


def _seconds(lines: Sequence[PhaseMetrics]) -> float:
    """Of one run, without the base phase where others share it."""
    own = [line.train_seconds for line in lines if line.phase or not parse_method(line.method).shares_base]
    return sum(own) + sum(line.mask_seconds + line.push_seconds + line.evaluate_seconds for line in lines)


def _difference(row: Row, reference: Row) -> dict[str, Any]:
    gap = paired(row.last.values, reference.last.values)
    return {"mean": gap.mean, "interval": gap.interval and list(gap.interval)}
