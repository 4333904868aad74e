"""The replicas benchmark runs, and what it tells comes from what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.replicas.command import main
from benchmarks.replicas.report import RUN, summary
from benchmarks.replicas.run import LEARNERS, Load, Run
from tests.postgres import need_postgres


def load(moved: float) -> Load:
    return Load(moved / 4, 3 * moved / 4, (2.0, 9.0), (1.0, 5.0))


def test_ratios_are_of_what_was_found() -> None:
    found = summary(
        Run(
            10,
            loads={"embedded": {1: load(100), 8: load(120)}, "replicas": {1: load(80), 8: load(160)}},
            alone={kind: Load(50, 0, (1, 1), (0, 0)) for kind in ("embedded", "replicas")},
            beside={"embedded": Load(40, 0, (1, 1), (0, 0)), "replicas": Load(30, 0, (1, 1), (0, 0))},
            samplers={"embedded": Load(0, 200, (0, 0), (1, 1))},
            samplers_beside={"embedded": Load(0, 150, (0, 0), (1, 1))},
            one=load(100),
            two=load(170),
            draw_ms={"embedded": 2.0, "replicas": 2.5},
            push_ms={"embedded": 20.0, "replicas": 30.0},
            round_trips={"draw": 1, "push": 2},
        )
    )
    assert found == {
        "aggregate_8_vs_1": {"embedded": 1.2, "replicas": 2.0},
        "replica_scaling": 1.7,
        "push_beside_vs_alone": {"embedded": 0.8, "replicas": 0.6},
        "sample_beside_vs_alone": {"embedded": 0.75},
        "draw_vs_embedded": 1.25,
        "push_1000_vs_embedded": 1.5,
        "round_trips": {"draw": 1, "push": 2},
        "sample_ms": {"embedded": (1.0, 5.0), "replicas": (1.0, 5.0)},
        "push_ms": {"embedded": (2.0, 9.0), "replicas": (2.0, 9.0)},
    }


@pytest.mark.slow
def test_the_quick_benchmark_runs_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_postgres()
    assert main(["--quick", "--results", str(tmp_path)]) == 0
    told = json.loads((tmp_path / "replicas" / "latest.json").read_text())
    assert told["summary"].keys() == json.loads(capsys.readouterr().out.splitlines()[-1]).keys()
    run = RUN.validate_python(told["found"])
    assert all(tuple(loads) == LEARNERS for loads in run.loads.values())
    assert all(found.pushed and found.sampled for loads in run.loads.values() for found in loads.values())
    # Of a full buffer, over HTTP and with a key; the last of them lets go of the buffer, behind the answer.
    assert run.round_trips["draw"] == 1
    assert 3 <= run.round_trips["push"] <= 4
