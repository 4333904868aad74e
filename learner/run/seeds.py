"""One configuration with several seeds: what each run is, and what all of them say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from learner.run.config import LearnerConfig
from learner.run.methods import parse_method
from learner.run.run_mark import FILE as MARK
from learner.run.run_mark import RunError
from learner.run.summary import MethodSummary, Results, budget_title, label, methods_table, seconds_spent, summarise

SeedResults = Mapping[int, Results]
"""By seed, the phases of each method; every seed has the same methods, in the same order."""


@dataclass(frozen=True)
class Spread:
    """Values of one figure, one a seed, summed up.

    Attributes:
        mean: of the values.
        deviation: their standard deviation (n - 1 in the denominator); None of fewer than two.
        interval: the mean's 95 % interval by Student's t; None of fewer than two.
        values: in the order of the seeds.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    values: tuple[float, ...]

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def spread(values: Sequence[float]) -> Spread:
    """What values of several seeds say together.

    Raises:
        ValueError: there are none.
    """
    if not len(values):
        raise ValueError("there is no value to sum up")
    given = np.asarray(values, dtype=np.float64)
    mean = float(given.mean())
    shown = tuple(given.tolist())
    if len(given) < 2:
        return Spread(mean, None, None, shown)
    from scipy.special import stdtrit  # 16 MiB, and wanted when all is done

    deviation = float(given.std(ddof=1))
    half = float(stdtrit(len(given) - 1, 0.975)) * deviation / len(given) ** 0.5
    return Spread(mean, deviation, (mean - half, mean + half), shown)


def paired(left: Sequence[float], right: Sequence[float]) -> Spread:
    """``left - right``, seed by seed: what all seeds have in common has no say in it.

    Raises:
        ValueError: they are not as many, or none.
    """
    return spread([a - b for a, b in zip(left, right, strict=True)])


def points(figure: Spread) -> str:
    """Shares as percent: mean, and deviation where there is one."""
    deviation = "" if figure.deviation is None else f" ± {100 * figure.deviation:.1f}"
    return f"{100 * figure.mean:.1f}{deviation}"


def gap_points(gap: Spread) -> str:
    """A difference of shares in points, with its interval where there is one."""
    if gap.interval is None:
        return f"{100 * gap.mean:+.1f}"
    return f"{100 * gap.mean:+.1f} ({100 * gap.interval[0]:+.1f} to {100 * gap.interval[1]:+.1f})"


def seed_config(config: LearnerConfig, number: int) -> LearnerConfig:
    """The configuration of run ``number``, from 0 on: what is drawn and the order of the classes change with it. Which
    samples are tested on stays as it is.

    Raises:
        ValueError: a seed, or the name that buffers get, is out of range.
    """
    data, memory = config.data, config.memory
    if memory.buffer:
        memory = replace(memory, buffer=f"{memory.buffer}-s{config.seed + number}")
    data = replace(data, class_order_seed=data.class_order_seed + number)
    return replace(config, seed=config.seed + number, data=data, memory=memory)


def refuse_other_kind(out: Path, *, several: bool) -> None:
    """A folder holds one run, or the runs of several seeds.

    Raises:
        RunError: it holds the other kind.
    """
    if several and (out / MARK).exists():
        raise RunError(f"{out} holds a run of one seed; give --seeds another --out, or delete {out} if nobody needs it")
    if not several and any(out.glob(f"seed-*/{MARK}")):
        raise RunError(f"{out} holds runs of several seeds: give --seeds as before, or another --out")


def summarise_seeds(runs: SeedResults) -> dict[str, MethodSummary[Spread]]:
    """The figures of each method over the seeds."""
    by_method: dict[str, list[MethodSummary[float]]] = {}
    for results in runs.values():
        for method, lines in results.items():
            by_method.setdefault(method, []).append(summarise(lines))
    names = [field.name for field in fields(MethodSummary)]
    return {
        method: MethodSummary(**{name: spread([getattr(each, name) for each in found]) for name in names})
        for method, found in by_method.items()
    }


def reference(methods: Sequence[str]) -> str:
    """The method that others are compared with: ``full`` where it is there, else the first that stores anything, else
    the first."""
    stores = [method for method in methods if parse_method(method).stores != "nothing"]
    return "full" if "full" in methods else (stores or list(methods))[0]


def differences(runs: SeedResults) -> dict[str, dict[str, Spread]]:
    """By method, how far its ``last`` and ``average`` lie above those of the :func:`reference`, paired by seed."""
    figures = summarise_seeds(runs)
    against = figures[name := reference(list(figures))]
    return {
        method: {
            "last": paired(found.last.values, against.last.values),
            "average": paired(found.average.values, against.average.values),
        }
        for method, found in figures.items()
        if method != name
    }


def seeds_json(config: LearnerConfig, runs: SeedResults) -> dict[str, Any]:
    """What ``summary.json`` holds for several seeds: every figure as its mean, deviation, interval and values."""
    figures = summarise_seeds(runs)
    lines = [lines for results in runs.values() for lines in results.values()]
    return {
        "seeds": list(runs),
        "phases": max(map(len, lines)),
        "budget_bytes": max(phases[-1].budget_bytes for phases in lines),
        "seconds": round(sum(map(seconds_spent, runs.values())), 1),
        **{method: asdict(found) for method, found in figures.items()},
        "against": reference(list(figures)),
        "differences": {
            method: {name: asdict(gap) for name, gap in gaps.items()} for method, gaps in differences(runs).items()
        },
        "config": config.to_dict(),
    }


def seeds_table(config: LearnerConfig, runs: SeedResults) -> Table:
    """Methods side by side: means over the seeds, accuracies in percent."""
    figures = summarise_seeds(runs)
    rows = {
        method: [
            points(found.last),
            interval_words(found.last),
            points(found.average),
            points(found.forgetting),
            f"{found.exemplars.mean:,.0f}" if found.exemplars.mean else "-",
            f"{found.bytes_per_exemplar.mean:,.0f}" if found.exemplars.mean else "-",
        ]
        for method, found in figures.items()
    }
    columns = ("last, %", "95 % interval", "average, %", "forgetting", "exemplars", "each")
    title = f"{seeds_words(runs)}, {budget_title(config, figures)}"
    return methods_table(title, columns, rows, [found.last.mean for found in figures.values()])


def interval_words(figure: Spread) -> str:
    """The 95 % interval of a share, in percent."""
    return "-" if figure.interval is None else f"{100 * figure.interval[0]:.1f} to {100 * figure.interval[1]:.1f}"


def seeds_words(runs: SeedResults) -> str:
    """How many seeds there are."""
    return "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"


def difference_lines(runs: SeedResults) -> list[str]:
    """Every method against the :func:`reference`, a line each; whether the seeds settle it is said."""
    against = label(reference(list(next(iter(runs.values())))))
    return [
        f"{label(method)} over {against}: {gap_points(gaps['last'])} points of last accuracy, "
        f"{gap_points(gaps['average'])} of average{_settled(gaps['last'])}"
        for method, gaps in differences(runs).items()
    ]


def _settled(gap: Spread) -> str:
    if gap.interval is None:
        return " (one seed)"
    return "" if gap.excludes_zero else " (the interval holds zero: these seeds do not settle which is better)"


def seeds_verdict(runs: SeedResults) -> str:
    """In words whether masking paid, losses included; empty without ``full`` and ``masked``."""
    figures = summarise_seeds(runs)
    if "full" not in figures or "masked" not in figures:
        return ""
    full, masked = figures["full"], figures["masked"]
    ratio = masked.exemplars.mean / full.exemplars.mean if full.exemplars.mean else float("nan")
    gap = differences(runs)["masked"]["last"]
    if gap.interval is None:
        ending = "one seed: an interval needs two"
    else:
        ending = f"95 % interval {100 * gap.interval[0]:+.1f} to {100 * gap.interval[1]:+.1f}, {seeds_words(runs)}"
        ending += "" if gap.excludes_zero else ", which settle nothing"
    return (
        f"Masked exemplars: {ratio:.1f} times as many as full images in the same bytes; "
        f"{100 * gap.mean:+.1f} points in last accuracy ({ending})."
    )
