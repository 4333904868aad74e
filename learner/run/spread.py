"""Figures of several seeds as one: mean, deviation and 95 % interval, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit


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

    def to_dict(self) -> dict[str, Any]:
        """For JSON, where tuples are lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


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
