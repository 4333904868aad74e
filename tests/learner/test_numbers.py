"""docs/numbers.md: last, average and forgetting on one matrix, here and as other libraries define them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from learner.run.evaluate import accuracy_by_phase, forgetting
from learner.run.summary import summarise
from tests.learner.test_seeds import _line

PAGE = (Path(__file__).parents[2] / "docs/numbers.md").read_text()
CLASSES = [6, 3, 3]


def _matrix() -> list[list[float]]:
    """The page's first table."""
    rows = re.findall(r"^\| \d \| (.*) \|$", PAGE, re.MULTILINE)
    return [[float(cell) for cell in row.split("|") if cell.strip()] for row in rows]


def _last_row(matrix: list[list[float]]) -> float:
    return float(np.average(matrix[-1], weights=CLASSES))


def _curve(matrix: list[list[float]]) -> float:
    return float(np.mean([np.average(row, weights=CLASSES[: len(row)]) for row in matrix]))


def _gem(matrix: list[list[float]]) -> float:
    """Lopez-Paz and Ranzato, NeurIPS 2017, ACC."""
    return float(np.mean(matrix[-1]))


def _pycil(matrix: list[list[float]]) -> float:
    """Of a table with a row a task: the largest of each column, the last one included, minus the last."""
    task = len(matrix) - 1
    table = np.zeros((task + 1, task + 1))
    for row, line in enumerate(matrix):
        table[row, : len(line)] = line
    return float(np.mean((table.max(0) - table[task])[:task]))


def _avalanche(matrix: list[list[float]]) -> float:
    """Of each experience but the last: right after its training, minus the last."""
    last = len(matrix) - 1
    return float(np.mean([matrix[j][j] - matrix[last][j] for j in range(last)]))


@pytest.mark.parametrize(
    ("row", "figure"),
    [
        ("last row, all samples together", _last_row),
        ("mean over the phases of that", _curve),
        ("mean of the last row", _gem),
        ("best before the last phase", forgetting),
        ("best of all rows", _pycil),
        ("first accuracy", _avalanche),
    ],
)
def test_figures_of_the_page_are_those_of_its_matrix(row: str, figure: object) -> None:
    found = re.search(rf"^\| {row}[^|]*\| (\.\d+) \|", PAGE, re.MULTILINE)
    assert found is not None
    digits = len(found[1]) - 1
    assert f"{figure(_matrix()):.{digits}f}".lstrip("0") == found[1]  # type: ignore[operator]


def test_the_summary_has_these_figures() -> None:
    """From right and wrong answers, as a run has them, to the summary."""
    matrix = _matrix()
    phases = [list(range(6)), [6, 7, 8], [9, 10, 11]]
    lines = []
    for phase, row in enumerate(matrix):
        ids = np.repeat(np.arange(sum(CLASSES[: phase + 1])), 100)
        of_phase = np.repeat(np.arange(3), np.array(CLASSES) * 100)[: len(ids)]
        place = np.concatenate([np.arange(int((of_phase == j).sum())) for j in range(phase + 1)])
        hits = place < np.array(row)[of_phase] * np.array(CLASSES)[of_phase] * 100 - 0.5
        by_phase = accuracy_by_phase(hits, ids, phases[: phase + 1])
        assert by_phase == pytest.approx(row)
        base = _line("masked", phase, float(hits.mean()))
        lines.append(type(base)(**{**vars(base), "by_phase": by_phase}))
    summary = summarise(lines)
    assert summary.last == pytest.approx(0.5625)
    assert summary.average == pytest.approx(0.734, abs=5e-4)
    assert summary.forgetting == pytest.approx(0.260)
    assert {_pycil(matrix), _avalanche(matrix)}.isdisjoint({summary.forgetting})


def test_forgetting_may_be_below_zero_here_and_not_in_pycil() -> None:
    gained = [[0.5], [0.6, 0.7], [0.8, 0.9, 0.7]]
    assert forgetting(gained) == pytest.approx(-0.2)
    assert _pycil(gained) == 0.0
    assert _avalanche(gained) == pytest.approx(-0.25)
