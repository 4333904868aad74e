"""Means, deviations and intervals, against values worked out by hand and from tables of Student's t."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from learner.run.seeds import gap_points, paired, points, spread


def test_the_interval_is_students() -> None:
    figure = spread([0.1, 0.2, 0.3])
    # t with 2 degrees at 97.5 % is 4.3027 in any table.
    half = 4.3027 * 0.1 / 3**0.5
    assert figure.mean == pytest.approx(0.2)
    assert figure.deviation == pytest.approx(0.1)
    assert figure.interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-5)
    assert not figure.excludes_zero
    assert points(figure) == "20.0 ± 10.0"
    # 4 degrees: 2.7764.
    five = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.interval == pytest.approx((3 - 2.7764 * 2.5**0.5 / 5**0.5, 3 + 2.7764 * 2.5**0.5 / 5**0.5), abs=1e-3)
    assert five.excludes_zero


def test_a_difference_is_paired_by_seed() -> None:
    """What seeds have in common is no spread of a difference: an unpaired one would say nothing here."""
    gap = paired([0.50, 0.60, 0.91], [0.40, 0.50, 0.80])
    assert gap.mean == pytest.approx(0.31 / 3)
    assert gap.deviation == pytest.approx(0.01 / 3**0.5)
    assert gap.excludes_zero
    assert gap_points(gap) == "+10.3 (+8.9 to +11.8)"
    with pytest.raises(ValueError, match="shorter"):
        paired([0.5, 0.6], [0.4])


def test_one_seed_has_no_interval_and_none_has_nothing() -> None:
    figure = spread([0.25])
    assert (figure.mean, figure.deviation, figure.interval, figure.excludes_zero) == (0.25, None, None, False)
    assert points(figure) == "25.0"
    assert gap_points(figure) == "+25.0"
    assert json.loads(json.dumps(asdict(figure))) == {
        "mean": 0.25,
        "deviation": None,
        "interval": None,
        "values": [0.25],
    }
    with pytest.raises(ValueError, match="no value"):
        spread([])
