"""``learner run --seeds N``: N runs that can be gone on with, and one summary and report of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from learner.cli import main
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics
from learner.run.run_mark import RunError, locked
from learner.run.seeds import (
    difference_lines,
    differences,
    reference,
    seed_config,
    seeds_verdict,
    summarise_seeds,
)
from tests.conftest import Service
from tests.learner import trees
from tests.learner.test_run_on_files import SETTINGS, as_options


def _line(method: str, phase: int, accuracy: float, exemplars: int = 10) -> PhaseMetrics:
    return PhaseMetrics(
        method=method,
        phase=phase,
        classes_seen=2 * phase + 2,
        accuracy=accuracy,
        accuracy_new=accuracy,
        accuracy_old=accuracy if phase else None,
        by_phase=[accuracy] * (phase + 1),
        by_split={"test": accuracy},
        by_modality={"both": accuracy} if phase else {},
        exemplars=exemplars,
        bytes_used=1000,
        budget_bytes=1200,
        bytes_per_exemplar=1000 / exemplars,
        keep_ratio=0.3,
        train_seconds=1.0,
        mask_seconds=1.0,
        push_seconds=1.0,
        pull_seconds=1.0,
        evaluate_seconds=1.0,
    )


RUNS = {
    seed: {
        "full": [_line("full", 0, 0.8), _line("full", 1, full)],
        "masked": [_line("masked", 0, 0.8), _line("masked", 1, masked, exemplars=25)],
    }
    for seed, (full, masked) in enumerate([(0.30, 0.40), (0.40, 0.50), (0.50, 0.61)])
}


def test_figures_over_seeds() -> None:
    figures = summarise_seeds(RUNS)
    assert figures["full"].last.values == (0.30, 0.40, 0.50)
    assert figures["masked"].last.mean == pytest.approx(0.5033, abs=1e-4)
    assert figures["full"].average.mean == pytest.approx(0.6)
    assert figures["full"].forgetting.mean == pytest.approx(0.4)
    assert differences(RUNS).keys() == {"masked"}
    gap = differences(RUNS)["masked"]["last"]
    assert gap.mean == pytest.approx(0.31 / 3)
    assert gap.excludes_zero


def test_words_over_seeds_say_what_is_not_settled() -> None:
    assert seeds_verdict(RUNS) == (
        "Masked exemplars: 2.5 times as many as full images in the same bytes; +10.3 points in last accuracy "
        "(95 % interval +8.9 to +11.8, 3 seeds)."
    )
    level = {0: RUNS[0], 1: {**RUNS[1], "masked": RUNS[0]["masked"]}}
    assert "2 seeds, which settle nothing" in seeds_verdict(level)
    assert "the interval holds zero" in difference_lines(level)[0]
    assert "one seed: an interval needs two" in seeds_verdict({0: RUNS[0]})
    assert seeds_verdict({0: {"full": RUNS[0]["full"]}}) == ""
    assert [reference(names) for names in (["none", "full"], ["none", "masked+q50", "cim"], ["none", "l2p"])] == [
        "full",
        "masked+q50",
        "none",
    ]


def test_a_seed_changes_draws_and_the_order_of_classes_and_not_the_split() -> None:
    config = LearnerConfig()
    third = seed_config(config, 2)
    assert (third.seed, third.data.class_order_seed, third.data.split_seed) == (2, 2, 0)
    assert seed_config(config, 0) == config


def _options(out: Path, table: Path, url: str, *more: str) -> list[str]:
    settings = {**SETTINGS, "data.path": table}
    sets = as_options(settings)
    return ["run", "--url", url, "--out", str(out), "--methods", "full,masked", *sets, *more]


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Callable[..., int]:
    table = trees.folder_set(tmp_path / "things", classes=4, per_class=6)
    return lambda *more: main(_options(tmp_path / "out", table, service.url, *more))


def test_seeds_make_one_summary_and_go_on(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("--seeds", "2") == 0
    first = json.loads((out / "summary.json").read_text())
    assert first["seeds"] == [0, 1]
    assert first["against"] == "full"
    own = [json.loads((out / f"seed-{seed}/summary.json").read_text()) for seed in (0, 1)]
    for method in ("full", "masked"):
        assert first[method]["last"]["values"] == [each[method]["last"] for each in own]
    gaps = [each["masked"]["last"] - each["full"]["last"] for each in own]
    assert first["differences"]["masked"]["last"]["values"] == pytest.approx(gaps)
    assert own[0]["classes"] != own[1]["classes"]
    page = (out / "report.html").read_text()
    assert "Lines are means of 2 seeds" in page
    assert page.count("<h3>") == 4
    assert (out / "seed-1/report.html").exists()
    assert "threads: 1 (" in capsys.readouterr().out
    assert [json.loads(file.read_text())["threads"] for file in sorted(out.rglob("machine.json"))] == ["1"] * 3

    trained = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    assert run("--seeds", "3") == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt") if "seed-2" not in str(path)} == trained
    more = json.loads((out / "summary.json").read_text())
    assert more["seeds"] == [0, 1, 2]
    assert more["full"]["last"]["values"][:2] == first["full"]["last"]["values"]
    said = capsys.readouterr().out
    assert "seed 2, run 3 of 3" in said
    assert "threads: 1 (as this run began" in said
    assert "masked exemplars over full images: " in said

    assert run() == 1
    assert "holds runs of several seeds" in capsys.readouterr().out


def test_a_folder_of_one_run_takes_no_seeds(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert run("--seeds", "2") == 1
    assert "holds a run of one seed" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("seed-*"))


def test_buffers_of_a_given_name_are_one_a_seed(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--seeds", "2", "--set", "memory.buffer=given") == 0
    names = [json.loads((tmp_path / f"out/seed-{seed}/summary.json").read_text())["buffers"] for seed in (0, 1)]
    assert names == [{name: f"given-s{seed}-{name}" for name in ("full", "masked")} for seed in (0, 1)]


def test_of_two_runs_in_a_folder_the_second_is_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, pathlib; from learner.run.run_mark import locked\n"
            "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(tmp_path / "out"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        assert run() == 1
        said = capsys.readouterr().out
        assert "another `learner run` works in" in said
        assert f"process {holder.pid} on " in said
        assert not (tmp_path / "out/base.pt").exists()
    finally:
        holder.kill()
        holder.communicate()
    # It ended as a crash does, and is in nobody's way.
    with locked(tmp_path / "out"), pytest.raises(RunError, match="another `learner run`"), locked(tmp_path / "out"):
        pass
    assert run() == 0
