"""The figures of the page: put into rows of text that is ready to be shown, and all of them as CSV and JSON for other
programs."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from learner.memory.contents import Held
from learner.run.config import LearnerConfig
from learner.run.evaluate import MODALITIES, PhaseMetrics
from learner.run.seeds import SeedResults, Spread, differences, gap_points, points, reference, summarise_seeds
from learner.run.summary import label

NOTHING = "-"
_LISTED = ("method", "phase", "by_phase", "by_split", "by_modality", "by_class")
_PLAIN = tuple(field.name for field in fields(PhaseMetrics) if field.name not in _LISTED)


@dataclass(frozen=True)
class Row:
    """One row: its head, the number of its method's colour (None: it has none), and cells."""

    head: str
    cells: list[str]
    method: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its heads."""

    caption: str
    heads: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Matrix:
    """A method's accuracies in percent: ``rows[l][j]``, after phase l on the classes of phase j."""

    label: str
    method: int
    rows: list[list[float]]


def results(runs: SeedResults) -> Table:
    """Methods side by side."""
    summaries = summarise_seeds(runs)
    best = max(summary.last.mean for summary in summaries.values())
    rows = []
    for place, (method, summary) in enumerate(summaries.items()):
        stored = summary.exemplars.mean > 0
        memory = [
            _count(summary.exemplars),
            f"{summary.bytes_used.mean:,.0f}",
            f"{summary.bytes_per_exemplar.mean:,.0f}",
        ]
        accuracy = [points(summary.last), points(summary.average), points(summary.forgetting)]
        cells = [*accuracy, *(memory if stored else [NOTHING] * 3)]
        rows.append(Row(label(method), cells, place, best=summary.last.mean == best))
    spread = "mean ± standard deviation over the seeds" if len(runs) > 1 else "one seed"
    return Table(
        f"Accuracy in percent ({spread}) and memory after the last phase",
        ["method", "last", "average", "forgetting", "exemplars", "bytes used", "bytes each"],
        rows,
    )


def gaps(runs: SeedResults) -> Table | None:
    """Each method against the reference, paired by seed; None of one seed or one method."""
    found = differences(runs)
    if len(runs) < 2 or not found:
        return None
    methods = list(next(iter(runs.values())))
    against = label(reference(methods))
    rows = [
        Row(
            label(method),
            [gap_points(gap["last"]), gap_points(gap["average"]), *(f"{100 * v:+.1f}" for v in gap["last"].values)],
            methods.index(method),
        )
        for method, gap in found.items()
    ]
    heads = ["method", "last", "average", *(f"last, seed {seed}" for seed in runs)]
    return Table(f"Points over {against}, paired by seed, with the 95 % interval", heads, rows)


def seeds(runs: SeedResults) -> Table | None:
    """The last accuracy of each seed; None of one seed."""
    if len(runs) < 2:
        return None
    rows = [
        Row(label(method), [f"{100 * value:.1f}" for value in summary.last.values], place)
        for place, (method, summary) in enumerate(summarise_seeds(runs).items())
    ]
    return Table("Last accuracy of each seed, in percent", ["method", *(f"seed {seed}" for seed in runs)], rows)


def matrices(runs: SeedResults) -> list[Matrix]:
    """The accuracy matrix of each method, means over the seeds."""
    of_seeds = list(runs.values())
    found = []
    for place, method in enumerate(of_seeds[0]):
        phases = zip(*(results[method] for results in of_seeds), strict=True)
        rows = [(100 * np.mean([line.by_phase for line in lines], axis=0)).tolist() for lines in phases]
        found.append(Matrix(label(method), place, rows))
    return found


def modalities(runs: SeedResults) -> Table | None:
    """Last accuracy with both, the picture alone and the text alone; None where it was not asked for."""
    names = ["both", *MODALITIES]
    rows = []
    for place, method in enumerate(next(iter(runs.values()))):
        last = [results[method][-1].by_modality for results in runs.values()]
        if all(last):
            rows.append(Row(label(method), [f"{100 * np.mean([said[n] for said in last]):.1f}" for n in names], place))
    return Table("Last accuracy in percent, by what is shown", ["method", *names], rows) if rows else None


def classes(
    runs: SeedResults,
    phases: Mapping[int, Sequence[Sequence[str]]],
    held: Mapping[str, Sequence[Held]],
    class_names: Sequence[str],
) -> Table:
    """Each class: its phase (one a seed, where they differ), its last accuracy and how many exemplars are held of it.

    Args:
        phases: names of the classes of each phase, by seed.
        held: contents of the memory of each seed, by method.
    """
    came = {
        seed: {name: str(number) for number, names in enumerate(of_seed, start=1) for name in names}
        for seed, of_seed in phases.items()
    }
    methods = list(next(iter(runs.values())))
    tested = [method for method in methods if all(results[method][-1].by_class for results in runs.values())]
    number = {name: class_id for class_id, name in enumerate(class_names)}
    rows = []
    for name in next(iter(came.values())):
        cells = [", ".join(dict.fromkeys(of_seed[name] for of_seed in came.values()))]
        for method in tested:
            found = [results[method][-1].by_class.get(name) for results in runs.values()]
            known = [value for value in found if value is not None]
            cells.append(f"{100 * np.mean(known):.0f}" if known else NOTHING)
        for contents in held.values():
            counts = [of_seed.exemplars.get(number.get(name, -1), 0) for of_seed in contents]
            cells.append(f"{np.mean(counts):.1f}".removesuffix(".0"))
        rows.append(Row(name, cells))
    heads = [
        *("class", "phase" if len(runs) == 1 else "phases"),
        *(f"{label(method)}, %" for method in tested),
        *(f"{label(method)} held" for method in held),
    ]
    return Table("Each class after the last phase: accuracy in percent, exemplars held", heads, rows)


def _count(exemplars: Spread) -> str:
    same = len(set(exemplars.values)) == 1
    return f"{exemplars.mean:,.0f}" if same else f"{exemplars.mean:,.0f} ± {exemplars.deviation or 0:.0f}"


def as_csv(runs: SeedResults) -> str:
    """A row for each seed, method and phase. Phases count from 1; ``accuracy_phase_2`` is that on the classes which
    came in the second; what there is not is empty."""
    lines = [(seed, line) for seed, results in runs.items() for phases in results.values() for line in phases]
    most = max(len(line.by_phase) for _, line in lines)
    parts = {
        f"{kind[3:]}_{name}": (kind, name) for _, line in lines for kind in _LISTED[3:5] for name in getattr(line, kind)
    }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seed", "method", "phase", *_PLAIN, *(f"accuracy_phase_{j + 1}" for j in range(most)), *parts])
    for seed, line in lines:
        matrix = [*line.by_phase, *[None] * (most - len(line.by_phase))]
        parted = [getattr(line, kind).get(name) for kind, name in parts.values()]
        writer.writerow([seed, line.method, line.phase + 1, *(getattr(line, n) for n in _PLAIN), *matrix, *parted])
    return out.getvalue()


def as_json(
    config: LearnerConfig,
    runs: SeedResults,
    classes: Mapping[int, Sequence[Sequence[str]]],
    machine: Mapping[str, str],
) -> str:
    """All of it: by seed and method the lines of ``metrics.jsonl``; classes of each phase by seed; configuration and
    machine."""
    document: dict[str, Any] = {
        "runs": {
            seed: {method: [asdict(line) for line in lines] for method, lines in results.items()}
            for seed, results in runs.items()
        },
        "classes": classes,
        "config": config.to_dict(),
        "machine": machine,
    }
    return json.dumps(document, indent=1) + "\n"


def download(text: str, media_type: str) -> str:
    """A text as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(text.encode()).decode()}"
