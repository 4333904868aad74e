"""What a run of the learner benchmark found: means and deviations over seeds, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.learner.plans import REFERENCE_MEMORY, Job, Plan
from learner.run.evaluate import PhaseMetrics
from learner.run.methods import parse_method
from learner.run.seeds import Spread, paired, spread
from learner.run.summary import summarise

Results = Mapping[Job, Sequence[PhaseMetrics]]


@dataclass(frozen=True)
class Row:
    """One method at one memory size and number of phases, over seeds.

    Attributes:
        stores: what the method keeps of a sample; ``full`` are the whole pictures that masks are compared with. Of an
            oracle ``oracle``, whatever it keeps: nothing is compared with it.
        last, average, forgetting: over seeds, shares in [0, 1].
        exemplars_per_class, bytes_per_exemplar: after the last phase, means over seeds.
        modality: last accuracy with the picture or the text alone, means over seeds; empty for the references.
    """

    method: str
    stores: str
    last: Spread
    average: Spread
    forgetting: Spread
    exemplars_per_class: float
    bytes_per_exemplar: float
    modality: dict[str, float]


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
                stores="oracle" if parse_method(method).oracle else parse_method(method).stores,
                last=spread([figure.last for figure in figures]),
                average=spread([figure.average for figure in figures]),
                forgetting=spread([figure.forgetting for figure in figures]),
                exemplars_per_class=float(np.mean([line[-1].exemplars / line[-1].classes_seen for line in lines])),
                bytes_per_exemplar=float(np.mean([figure.bytes_per_exemplar for figure in figures])),
                modality={
                    name: float(np.mean([line[-1].by_modality[name] for line in lines]))
                    for name in lines[0][-1].by_modality
                },
            )
        )
    return table


def best_full(rows: Sequence[Row]) -> Row | None:
    """The whole-picture baseline with the best mean last accuracy: the one to beat, chosen on the test itself."""
    full = [row for row in rows if row.stores == "full"]
    return max(full, key=lambda row: row.last.mean, default=None)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The last line of the output: figures by method."""
    reference = best_full(rows)
    return {
        row.method: {
            "last": {"mean": row.last.mean, "std": row.last.deviation},
            "average": {"mean": row.average.mean, "std": row.average.deviation},
            "forgetting": {"mean": row.forgetting.mean, "std": row.forgetting.deviation},
            "exemplars_per_class": row.exemplars_per_class,
            "bytes_per_exemplar": row.bytes_per_exemplar,
            "paired_vs_best_full": None if reference is None else _difference(row.last, reference.last),
            "average_vs_best_full": None if reference is None else _difference(row.average, reference.average),
        }
        for row in rows
    }


@dataclass(frozen=True)
class Table:
    """Methods side by side at one number of phases and one memory size, in full samples a class."""

    phases: int
    memory: int
    rows: list[Row]


@dataclass(frozen=True)
class Finished:
    """One method with one seed: accuracy after each phase, and by modality after the last."""

    phases: int
    memory: int
    seed: int
    method: str
    accuracy: list[float]
    by_modality: dict[str, float]


@dataclass(frozen=True)
class Run:
    """Everything that one run found.

    Attributes:
        conditions: what a title begins with where not all is as usual.
        device: the GPU, or ``cpu``.
        full_sample_bytes: the unit of memories.
        classes: first and one past the last of MM-Emoji-R's.
        config: settings of all runs.
    """

    conditions: str
    device: str
    full_sample_bytes: int
    seeds: list[int]
    classes: tuple[int, int]
    config: dict[str, Any]
    tables: list[Table]
    runs: list[Finished]

    @property
    def reference(self) -> Table:
        """The table that the last line of the output is about."""
        first = self.tables[0].phases
        tables = {table.memory: table for table in self.tables if table.phases == first}
        return tables.get(REFERENCE_MEMORY, self.tables[0])


def found(plan: Plan, results: Results, *, conditions: str, device: str, full_sample_bytes: int) -> Run:
    """What the jobs of a plan found."""
    return Run(
        conditions=conditions,
        device=device,
        full_sample_bytes=full_sample_bytes,
        seeds=list(plan.seeds),
        classes=(plan.first_class, plan.first_class + plan.num_classes),
        config=plan.config.to_dict(),
        tables=[
            Table(phases, memory, rows(results, num_phases=phases, memory=memory))
            for phases in plan.num_phases
            for memory in plan.memories
        ],
        runs=[
            Finished(
                phases=job.num_phases,
                memory=job.memory,
                seed=job.seed,
                method=job.method,
                accuracy=[line.accuracy for line in lines],
                by_modality=lines[-1].by_modality,
            )
            for job, lines in results.items()
        ],
    )


def _difference(figure: Spread, reference: Spread) -> dict[str, Any]:
    gap = paired(figure.values, reference.values)
    return {"mean": gap.mean, "interval": gap.interval and list(gap.interval)}
