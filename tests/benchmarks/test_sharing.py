"""The sharing benchmark: what is told of what two learners knew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sharing.report import RUN, summary
from benchmarks.sharing.run import CLASSES, Learner, Run
from learner.data.fetch import data_dir

ROOT = Path(__file__).parents[2]


def test_a_gain_is_over_what_a_learner_knows_alone_of_all_classes() -> None:
    learners = {
        "left": Learner(("a", "b"), own_alone=[0.8, 0.6], own=[0.7, 0.5], others=[0.5, 0.3]),
        "right": Learner(("c", "d"), own_alone=[0.9, 0.9], own=[0.5, 0.4], others=[0.2, 0.4]),
    }
    found = summary(Run("masked", [0, 1], 2, 1000, learners))
    assert found["others"] == pytest.approx({"left": 0.4, "right": 0.3})
    assert (found["least_others"], found["chance"]) == (0.2, 0.25)
    assert found["gain"] == pytest.approx({"left": (0.2 + 0.1) / 2, "right": (-0.1 - 0.05) / 2})


@pytest.mark.slow
def test_the_quick_benchmark_runs_both(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sharing", "--quick", "--results", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"EXEMPLAR_MEMORY_DATA": str(data_dir().resolve())},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "sharing" / "latest.json").read_text())
    assert told["summary"] == json.loads(done.stdout.splitlines()[-1])
    run = RUN.validate_python(told["found"])
    assert {name: learner.classes for name, learner in run.learners.items()} == CLASSES
    assert all(len(learner.others) == 1 for learner in run.learners.values())
