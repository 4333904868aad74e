"""The cost benchmark: a quick mode that measures everything, and figures that are ratios within a round."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import builds
from benchmarks.common.rounds import Figure
from benchmarks.cost import masks, peak, replay
from benchmarks.cost.report import RUN, WANTED
from benchmarks.cost.run import BEFORE, Beside, Peak, Replay, Run, summary
from learner import before_torch
from learner.data.fetch import data_dir

ROOT = Path(__file__).parents[2]


def test_figures_are_taken_within_rounds_and_the_worse_counts() -> None:
    alone = Figure((1.0, 2.0, 4.0))
    run = Run(
        0.1,
        Beside(2, 1, 16, alone, Figure((1.5, 3.0, 6.0)), Figure((1.7, 3.2, 8.0)), (0.9, 1.1, 1.0)),
        {
            "small": Replay(450.0, 9, Figure((1.0, 1.0, 1.0)), Figure((1.0, 1.0, 1.0)), 0.001),
            "large": Replay(20_000.0, 9, Figure((1.01, 1.02, 1.0)), Figure((1.0, 1.0, 1.0)), 0.004),
        },
        {"forward": alone},
        num_samples=10,
        seeds=3,
        peaks={"before": Peak(3_000.0, 200.0, 100.0), "after": Peak(1_200.0, 190.0, 90.0)},
    )
    assert summary(run) == {
        "step_beside_busy_vs_alone": 1.7,
        "two_learners_vs_one": 1.0,
        "peak_rss_vs_before": 0.4,
        "demo_seconds_vs_before": 0.9,
        "service_peak_rss_vs_before": 0.95,
        "replay_step_vs_tensors": 1.01,
        "replay_wait_share": 0.004,
    }
    assert list(summary(run)) == list(WANTED)
    run.peaks = {}
    assert summary(run)["peak_rss_vs_before"] is None


def test_there_may_be_no_earlier_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "ROOT", tmp_path)
    with pytest.raises(builds.NoBuildError, match=r"git has no commit 0bed484 here: .*not a git repository"):
        builds.checkout(BEFORE, tmp_path / "build")


def test_an_earlier_build_is_not_told_what_this_one_tells_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in before_torch.SAID.items():
        monkeypatch.setenv(name, value)
    build = tmp_path / "build"
    (build / "learner").mkdir(parents=True)
    (build / "learner" / "__main__.py").write_text("import json, os\nprint(json.dumps([*os.environ]))\n")
    for name in ("memory_service", "memory_format"):
        (build / name).symlink_to(ROOT / name)
    with contextlib.closing(peak._Demo(build, tmp_path / "before", [], {"HF_HUB_OFFLINE": "1"})) as demo:
        assert demo._learner.wait(60) == 0
    told = set(json.loads((tmp_path / "before" / "learner.log").read_text()))
    assert not told & before_torch.SAID.keys()
    assert told >= {"HF_HUB_OFFLINE", *os.environ} - before_torch.SAID.keys()


@pytest.mark.slow
def test_the_quick_benchmark_measures_everything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", "--quick", "--before", str(ROOT), "--results", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"EXEMPLAR_MEMORY_DATA": str(data_dir().resolve()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert list(last) == list(WANTED)
    assert all(value > 0 for value in last.values())
    assert 0.5 < last["peak_rss_vs_before"] < 2  # a build against itself
    told = json.loads((tmp_path / "cost" / "latest.json").read_text())
    assert told["summary"] == last
    run = RUN.validate_python(told["found"])
    assert set(run.masks) == {"forward", *masks.KINDS}
    assert set(run.replay) == set(replay.KINDS)
    assert run.beside.first_threads == run.beside.second_threads == 1
    assert run.peaks["after"].learner_mib > run.peaks["after"].service_mib > 0
    assert run.skipped == []
