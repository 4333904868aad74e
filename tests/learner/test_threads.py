"""How many threads a run computes with, and that it keeps their number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from client import MemoryClient
from learner.cli import main
from learner.run import machine
from learner.run.run_mark import RunError
from learner.run.threads import Neighbours, choose, fair_share
from tests.conftest import Service


@pytest.mark.parametrize(
    ("cores", "others", "share"),
    [
        (2, [], 2.0),
        (2, [1.0], 1.0),
        (2, [2.0], 1.0),
        (2, [1.0, 1.0], 2 / 3),
        (64, [1.0], 63.0),
        (64, [64.0], 32.0),
        (8, [1.0] * 7, 1.0),
        (8, [0.5, 8.0], 3.75),
        (8, [8.0, 8.0, 0.5], 2.5),
    ],
)
def test_a_process_gets_what_is_free_or_an_equal_share(cores: int, others: list[float], share: float) -> None:
    assert fair_share(cores, others) == pytest.approx(share)


def test_a_process_that_computes_is_seen() -> None:
    neighbours = Neighbours()
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        cores, others = neighbours.look()
        busy.communicate("\n")
    assert cores == len(os.sched_getaffinity(0))
    assert sum(others) > 0


class _Seen(Neighbours):
    """A machine of four cores with such neighbours."""

    def __init__(self, *others: float) -> None:
        self._others = others

    def look(self) -> tuple[int, Sequence[float]]:
        return 4, self._others


@pytest.fixture
def torch_takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return lambda number: monkeypatch.setattr(torch, "get_num_threads", lambda: number)


def test_the_number_is_what_is_free_unless_somebody_says_another(
    torch_takes: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_takes(4)
    assert str(choose(None, {}, _Seen(1.0, 0.04))).startswith("threads: 3 (4 cores, 1.0 busy; --threads")
    assert choose(None, {}, _Seen(4.0)).number == 2
    assert choose(None, {}, _Seen(*[1.0] * 16)).number == 1
    assert choose(7, {"threads": "2"}, _Seen()).number == 7
    assert choose(None, {"threads": "3, then 2"}, _Seen()).number == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert str(choose(None, {}, _Seen(4.0))) == "threads: 4 (OMP_NUM_THREADS)"
    torch_takes(2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert choose(None, {}, _Seen()).number == 2
    with pytest.raises(RunError, match="'many' threads: give it --threads"):
        choose(None, {"threads": "many"}, _Seen())


def test_a_folder_says_with_how_many_threads_its_run_went_on(service: Service, tmp_path: Path) -> None:
    with MemoryClient(service.url) as client:
        info = client.info()
    for number, said in ((2, "2"), (2, "2"), (1, "2, then 1"), (1, "2, then 1")):
        machine.remember(tmp_path, info, number)
        assert machine.recall(tmp_path)["threads"] == said


def test_a_number_of_threads_is_one_from_1_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--url", "http://127.0.0.1:9", "--out", "out", "--threads", "0"])
    assert "must be a whole number from 1 on, got '0'" in capsys.readouterr().err
