"""The learner benchmark: fair plans, right statistics, and a quick mode that runs everything, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.common.document import RESULTS
from benchmarks.learner import command, plans
from benchmarks.learner.plans import TRIALS, Job
from benchmarks.learner.report import RUN, verdicts
from benchmarks.learner.run import Row, best_full, summary
from learner.data.fetch import data_dir
from learner.run.methods import parse_method
from learner.run.problem import class_order, cut
from learner.run.seeds import spread

ROOT = Path(__file__).parents[2]


def _row(method: str, last: list[float]) -> Row:
    figures = (spread(last), spread([value + 0.1 for value in last]), spread([0.0] * len(last)))
    stores = "oracle" if parse_method(method).oracle else parse_method(method).stores
    return Row(method, stores, *figures, 3.0, 400.0, {"picture": 0.2, "text": 0.1})


def test_the_reference_is_the_best_full_baseline_and_losses_are_said() -> None:
    table = [
        _row("none", [0.1, 0.1]),
        _row("full", [0.3, 0.3]),
        _row("full+q60", [0.4, 0.42]),
        # An oracle is nobody's rival.
        _row("full+herding-test", [0.6, 0.6]),
        _row("cim", [0.2, 0.3]),
        _row("random", [0.35, 0.35]),
        _row("masked", [0.35, 0.35]),
    ]
    best = best_full(table)
    assert best is not None
    assert best.method == "full+q60"
    words = verdicts(table)
    assert words[0].startswith("- Masked exemplars are behind the best full images (`full+q60`): -6.0")
    assert "ahead of class-activation boxes" in words[1]
    assert "holds zero" in words[1]
    assert "level with random masks" in words[2]
    told = summary(table)
    assert told["masked"]["paired_vs_best_full"]["mean"] == pytest.approx(-0.06)
    assert told["full+q60"]["paired_vs_best_full"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    assert told["full"]["last"] == {"mean": pytest.approx(0.3), "std": 0.0}


@pytest.mark.parametrize("kind", ["default", "full", "tune", "unseen", "quick"])
def test_plans_are_made_of_methods_that_go_with_their_settings(kind: str) -> None:
    plan = getattr(plans, kind)()
    jobs = plan.jobs()
    assert len(set(jobs)) == len(jobs)
    for job in jobs:
        parse_method(job.method).configure(job.config(plan, 1000))
    for number in plan.num_phases:
        orders = []
        for seed in plan.seeds:
            config = Job(number, seed, 5, "masked").config(plan, 1000).data
            order = class_order(config, [""] * plan.num_classes)
            phases = cut(order, config.base_classes, config.classes_per_phase)
            assert len(phases) == number
            orders.append(phases)
        assert len({str(order) for order in orders}) == len(plan.seeds)


def test_tuning_is_as_long_for_each_kind_and_on_other_classes() -> None:
    assert len({len(names) for names in TRIALS.values()}) == 1
    assert all(parse_method(name).stores == parse_method(kind).stores for kind in TRIALS for name in TRIALS[kind])
    table, tuning = plans.default(), plans.tune()
    assert tuning.first_class >= table.first_class + table.num_classes
    assert replace(tuning, first_class=0, methods=table.methods, seeds=table.seeds) == table


def test_classes_that_no_decision_has_seen_are_in_no_other_plan() -> None:
    used = {
        class_id
        for plan in (plans.default(), plans.tune())
        for class_id in range(plan.first_class, plan.first_class + plan.num_classes)
    }
    unseen = plans.unseen()
    own = range(unseen.first_class, unseen.first_class + unseen.num_classes)
    assert not used & set(own)
    assert len(used) + len(own) == plans.full().num_classes
    assert not set(unseen.seeds) & {*plans.full().seeds, *plans.default().seeds}
    assert command._plan(command._parser().parse_args(["--unseen", "--seeds", "2"])).seeds == (100, 101)


def test_misleading_scenes_are_a_benchmark_of_their_own() -> None:
    plain, misleading = (command._parser().parse_args(["--quick", *more]) for more in ([], ["--scenes", "misleading"]))
    assert [command._suffix(options) for options in (plain, misleading)] == ["-quick", "-quick-misleading"]
    plan = command._plan(misleading)
    assert plan != command._plan(plain) == plans.quick()
    assert {job.config(plan, 1000).data.scenes for job in plan.jobs()} == {"misleading"}
    assert command._conditions(misleading) == "misleading scenes, "


def test_one_setting_of_all_methods_makes_a_benchmark_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    options = command._parser().parse_args(["--tune", "--set", "data.image_size=224", "--set", "train.head=cosine"])
    assert command._suffix(options) == "-tune-data-image_size-224-train-head-cosine"
    assert command._conditions(options) == "data.image_size=224, train.head=cosine, "
    plan = command._plan(options)
    assert {(c.data.image_size, c.train.head) for c in (job.config(plan, 1) for job in plan.jobs())} == {
        (224, "cosine")
    }
    for words, message in {
        ("--set", "data.num_classes=24"): "sizes of the data, phases, memory and seeds are the plan's",
        ("--set", "data.colour=1"): "unknown setting data.colour",
        ("--methods", "masked+q300"): "codec: quality is a whole number in",
        ("--set", "data.image_size"): "--set takes KEY=VALUE",
    }.items():
        with pytest.raises(SystemExit):
            command.main(words)
        assert message in capsys.readouterr().err


def test_more_rows_and_memory_sizes_go_on_from_the_table() -> None:
    words = ["--ablations", "--oracles", "--memories", "2,5"]
    plain, more = (command._parser().parse_args(given) for given in ([], words))
    assert command._suffix(plain) == command._suffix(more) == ""
    jobs = command._plan(more).jobs()
    assert set(command._plan(plain).jobs()) < set(jobs)
    assert {job.method for job in jobs if job.memory == 2} == set(plans.CHARTED)
    rows = {*plans.METHODS, *plans.ORACLES, *plans.ABLATIONS}
    assert {job.method for job in jobs if job.memory == 5} == rows
    assert {name for name in rows if parse_method(name).oracle} == set(plans.ORACLES)
    # Each is another experiment, and not the recipe under another name.
    configs = [str(parse_method(name).configure(plans.RECIPE)) for name in plans.ABLATIONS if name.startswith("masked")]
    assert len(set(configs)) == len(configs)
    assert str(parse_method("masked").configure(plans.RECIPE)) not in configs
    # A row that is there already is run once.
    twice = command._plan(command._parser().parse_args(["--methods", "masked+q30", "--ablations"])).methods
    assert sorted(twice) == sorted(plans.ABLATIONS)


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ([], RESULTS),
        (["--ablations"], Path("out")),
        (["--ablations", "--name", "ablations"], RESULTS),
        (["--quick"], Path("out")),
        (["--results", "here"], Path("here")),
    ],
)
def test_the_table_and_what_has_a_name_are_kept_in_the_repository(words: list[str], kept: Path) -> None:
    options = command._parser().parse_args(words)
    assert command._folder(options, command._plan(options), Path("out")) == kept


def test_memory_sizes_share_a_base_phase_and_seeds_do_not(tmp_path: Path) -> None:
    jobs = plans.full().jobs()
    assert len({job.base_path(tmp_path) for job in jobs}) == 3 * 5
    assert len({job.folder(tmp_path) for job in jobs}) == 3 * 5 * 5


def _quick(out: Path) -> tuple[dict[str, dict[str, object]], str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.learner", "--quick", "--workers", "0", "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"EXEMPLAR_MEMORY_DATA": str(data_dir().resolve()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    last: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return last, done.stderr


@pytest.mark.slow
def test_the_quick_benchmark_runs_everything_and_a_second_time_nothing(tmp_path: Path) -> None:
    first, said = _quick(tmp_path)
    assert list(first) == list(plans.quick().methods)
    for method, figures in first.items():
        assert set(figures) == {
            *("last", "average", "forgetting", "exemplars_per_class", "bytes_per_exemplar"),
            *("paired_vs_best_full", "average_vs_best_full"),
        }
        for name in ("last", "average", "forgetting"):
            assert set(figures[name]) == {"mean", "std"}  # type: ignore[call-overload]
        stores = parse_method(method).stores != "nothing"
        assert (figures["exemplars_per_class"] > 0) == stores  # type: ignore[operator]
    assert first["masked"]["bytes_per_exemplar"] < first["full"]["bytes_per_exemplar"]  # type: ignore[operator]
    assert first["masked"]["exemplars_per_class"] > first["full"]["exemplars_per_class"]  # type: ignore[operator]
    assert "2 phases, 5 full samples a class" in said
    kept = tmp_path / "learner" / "latest.json"
    assert {path.name for path in kept.parent.iterdir()} == {"latest.json", "latest.md", "latest.png"}
    told = json.loads(kept.read_text())
    assert told["argv"] == ["--quick", "--workers", "0", "--out", "PATH"]
    assert told["summary"] == first
    run = RUN.validate_python(told["found"])
    assert [(table.phases, table.memory) for table in run.tables] == [(2, 2), (2, 5)]
    assert len(run.runs) == len(plans.quick().jobs())
    assert list(tmp_path.glob("p2-s0-*/report.html"))

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert len([path for path in before if path.name.startswith("base-")]) == 2
    second, _ = _quick(tmp_path)
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == before
