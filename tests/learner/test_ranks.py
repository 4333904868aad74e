"""Several ranks that ``torchrun`` starts go through the run that one goes through: the same draws, shared out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from learner.cli import main
from learner.memory.exemplars import to_replay
from tests.conftest import Service
from tests.learner import ranked, trees

SETTINGS = {
    "data.name": "folder",
    "data.image_size": 32,
    "data.base_classes": 1,
    "data.classes_per_phase": 1,
    "backbone.kind": "small",
    "backbone.patch_px": 8,
    "backbone.hidden_size": 32,
    "backbone.num_layers": 1,
    "train.bf16": "off",
    "train.base_epochs": 2,
    "train.ssf_epochs": 2,
    # Of a class there are nine: in the last step of an epoch one rank has none of them.
    "train.batch_size": 8,
    # All of it fits, in an order that is none of the features' last bits.
    "memory.selection": "random",
    "memory.budget_bytes": 400_000,
}
ENDED = 240
"""Seconds, for processes that have to load torch first."""


def arguments(url: str, out: Path, table: Path) -> list[str]:
    settings = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    told = ["--methods", "masked", "--threads", "1", "--no-upload", str(table)]
    return ["run", "--url", url, "--out", str(out), *settings, *told]


def start(notes: Path, told: list[str]) -> subprocess.Popen[str]:
    """Two ranks."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.learner.ranked"]
    return subprocess.Popen(
        [sys.executable, *launch, *told],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "NOTES": str(notes), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def noted(path: Path) -> dict[int, list[int]]:
    return dict(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.slow
def test_two_ranks_replay_what_one_does_and_go_on_when_they_were_interrupted(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = trees.folder_set(tmp_path / "set", classes=3, per_class=11)
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setattr("learner.run.method_run.to_replay", to_replay)
    ranked.noting(notes)
    assert main(arguments(service.url, tmp_path / "one", table)) == 0
    one = noted(notes / "0-of-1.jsonl")
    assert len(one) > 4

    told = arguments(service.url, tmp_path / "two", table)
    (notes / "pause").touch()
    interrupted = start(notes, told)
    try:
        end = time.monotonic() + ENDED
        while not (notes / "paused").exists():
            assert interrupted.poll() is None, interrupted.communicate()[0]
            assert time.monotonic() < end, "the ranks do not come to phase 2"
            time.sleep(0.05)
        # One rank in the midst of its step, the other one waiting for it.
        interrupted.send_signal(signal.SIGINT)
        said, _ = interrupted.communicate(timeout=ENDED)
    finally:
        interrupted.kill()
    assert interrupted.returncode != 0
    assert said.count("interrupted; what is finished is kept") == 1, said
    (notes / "pause").unlink()

    again = start(notes, told)
    said, _ = again.communicate(timeout=ENDED)
    assert again.returncode == 0, said
    # One speaks for both, and of each phase.
    assert said.count("masked exemplars phase 3/3") == 1
    shares = [noted(notes / f"{rank}-of-2.jsonl") for rank in range(2)]
    assert {step: [*shares[0][step], *shares[1][step]] for step in shares[0]} == one
    assert all(len(ids) == 4 for share in shares for ids in share.values())
    found = [(tmp_path / out / "masked/metrics.jsonl").read_text().splitlines() for out in ("one", "two")]
    for by_one, by_two in zip(*(map(json.loads, lines) for lines in found), strict=True):
        # Of the few that are tested one may be named otherwise.
        assert abs(by_one["accuracy"] - by_two["accuracy"]) * 2 * (by_one["phase"] + 1) < 1.5
        assert (by_one["exemplars"], by_one["phase"]) == (by_two["exemplars"], by_two["phase"])


def test_a_batch_that_ranks_cannot_share_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit):
        main(arguments("http://127.0.0.1:1", tmp_path / "out", tmp_path))
    assert "train.batch_size is 8, which 3 ranks cannot share out evenly" in capsys.readouterr().err
