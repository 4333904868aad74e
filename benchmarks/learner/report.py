"""The tables of a learner run, and below each whether masking paid."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter

from benchmarks.common.document import Document
from benchmarks.common.tables import table
from benchmarks.learner.run import Row, Run, Table, best_full
from learner.run.seeds import Spread, gap_points, paired, points

RUN = TypeAdapter(Run)


def markdown(kept: Document) -> str:
    """The tables."""
    run = RUN.validate_python(kept.found)
    trained = f"Trained on: {run.device}. A full sample is {run.full_sample_bytes:,} bytes."
    return "\n\n".join([kept.heading("Learner benchmark"), trained, *(_section(found, run) for found in run.tables)])


def _section(found: Table, run: Run) -> str:
    seeds = f"{len(run.seeds)} seed{'s' if len(run.seeds) > 1 else ''}"
    title = f"{run.conditions}{found.phases} phases, {found.memory} full samples a class, {seeds} (mean ± deviation, %)"
    return f"## {title}\n\n{_table(found.rows)}\n\n" + "\n".join(verdicts(found.rows))


def _table(rows: Sequence[Row]) -> str:
    reference = best_full(rows)
    over = f"against {reference.method}" if reference else "paired"
    gaps = [f"last, {over}", f"average, {over}"]
    head = ["method", "last", "average", "forgetting", "a class", "bytes each", *gaps, "picture / text alone"]
    cells = []
    for row in rows:
        stored = row.bytes_per_exemplar > 0
        alone = [f"{100 * row.modality[name]:.1f}" for name in ("picture", "text") if row.modality]
        cells.append(
            [
                f"`{row.method}`",
                points(row.last),
                points(row.average),
                points(row.forgetting),
                f"{row.exemplars_per_class:.1f}" if stored else "-",
                f"{row.bytes_per_exemplar:,.0f}" if stored else "-",
                "" if reference is None else gap_points(paired(row.last.values, reference.last.values)),
                "" if reference is None else gap_points(paired(row.average.values, reference.average.values)),
                " / ".join(alone) or "-",
            ]
        )
    return table(head, cells)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """``masked`` against each of its rivals in words; a loss is called one."""
    by_name = {row.method: row for row in rows}
    masked, full = by_name.get("masked"), best_full(rows)
    if masked is None:
        return []
    rivals = {
        "the best full images": full,
        "class-activation boxes": by_name.get("cim"),
        "a fixed grid": by_name.get("grid"),
        "random masks": by_name.get("random"),
    }
    said = []
    for name, rival in rivals.items():
        if rival is None:
            continue
        last = paired(masked.last.values, rival.last.values)
        average = paired(masked.average.values, rival.average.values)
        word = "ahead of" if last.mean > 0 else "behind" if last.mean < 0 else "level with"
        said.append(
            f"- Masked exemplars are {word} {name} (`{rival.method}`): {gap_points(last)} points of last "
            f"accuracy{_ending(last)}. Of average accuracy: {gap_points(average)}{_ending(average)}."
        )
    return said


def _ending(gap: Spread) -> str:
    return "" if gap.excludes_zero else ("; one seed" if gap.interval is None else "; the interval holds zero")
