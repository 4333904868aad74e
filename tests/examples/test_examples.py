"""The examples run as they are, from any folder, and print what they say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))

# torchdata 0.11 beside torch 2.14.
WARNINGS = ["-W", "error", "-W", "ignore:'set_vital' is deprecated"]


def run(name: str, folder: Path, *arguments: str, warnings: list[str] = WARNINGS) -> str:
    """What it printed."""
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *warnings, str(FOLDER / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_replay_keeps_old_classes_in_an_own_loop(tmp_path: Path) -> None:
    found = re.findall(
        r"^(no|with) replay, (\d) classes: (\d\.\d\d) right$", run("own_loop", tmp_path, "40"), re.MULTILINE
    )
    assert [(how, classes) for how, classes, _ in found] == [(how, n) for how in ("no", "with") for n in "246"]
    assert float(found[5][2]) > float(found[2][2]) + 0.15


def test_a_loader_brings_replay_and_goes_on(tmp_path: Path) -> None:
    printed = run("mixed_loader", tmp_path)
    assert re.search(r"^phase 0: 96 stored, 0 evicted; 96 exemplars of 2 classes, [\d,]+ of 40,000 bytes", printed)
    assert printed.endswith("5 batches, and 2 and 3: the same losses: True\n")


def test_lightning_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    printed = run("lightning_loop", tmp_path, warnings=["-W", "ignore"])  # Lightning has advice for everybody
    assert re.search(r"^phase 1: 64 exemplars of 2 classes, [\d,]+ of 400,000 bytes, \d+ each\n", printed)
    assert printed.endswith("the same weights: True\n")


def test_the_trainer_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    printed = run("trainer_loop", tmp_path, warnings=["-W", "ignore"])
    assert re.search(
        r"^phase 1: 64 stored, 0 evicted; 128 exemplars of 4 classes, [\d,]+ of 400,000", printed, re.MULTILINE
    )
    assert printed.endswith("the same weights: True\n")


def test_two_learners_share_a_budget(tmp_path: Path) -> None:
    printed = run("two_learners", tmp_path, "24")
    # In step, so both have drawn the same.
    drawn = dict(re.findall(r"^(\w+) drew 32 exemplars: (\{'ada': \d+, 'ben': \d+\})$", printed, re.MULTILINE))
    assert set(drawn) == {"ada", "ben"}
    assert drawn["ada"] == drawn["ben"]
    held = re.search(
        r"^held: ([\d,]+) of 40,000 bytes, exemplars by learner: \{'\w+': \d+, '\w+': \d+\}", printed, re.MULTILINE
    )
    assert held is not None
    assert int(held[1].replace(",", "")) <= 40_000
    assert len(re.findall(r"^  \w+ +\d+ exemplars, +[\d,]+ bytes$", printed, re.MULTILINE)) == 6


def test_what_is_stored_can_be_looked_at(tmp_path: Path) -> None:
    printed = run("look", tmp_path, "--out", "sheet.png", "--limit", "4")
    assert re.search(r"^ +1 +0 +0 +53/196 +0 +\d+  a cup of coffee$", printed, re.MULTILINE)
    assert "wrote sheet.png" in printed
    page = Image.open(tmp_path / "sheet.png")
    assert page.size == (4 * 232 + 8, 232 + 8)
    assert page.getpixel((8 + 223, 8)) == (211, 211, 211)


@pytest.mark.slow
def test_own_pictures_end_in_a_report(tmp_path: Path) -> None:
    less = ["--set=train.base_epochs=1", "--set=backbone.kind=small", "--set=backbone.num_layers=1", "--methods=masked"]
    printed = run("own_pictures", tmp_path, "--out", "out", *less)
    assert "96 samples to train on, 24 to test on" in " ".join(printed.split())
    assert re.search(r"^ +masked exemplars +\S", printed, re.MULTILINE)
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("avalanche_replay", "12,288"), ("avalanche_der", "12,312")])
def test_avalanche_keeps_its_exemplars_in_the_service(tmp_path: Path, name: str, size: str) -> None:
    printed = run(name, tmp_path, "1")
    assert re.search(rf"^in memory, {size} bytes each: 24 exemplars, 0\.\d\d right$", printed, re.MULTILINE)
    phases = re.findall(
        r"^phase (\d): \d+ stored, \d+ evicted; (\d+) exemplars of \d classes, \d,\d{3} of 9,000 bytes",
        printed,
        re.MULTILINE,
    )
    assert [phase for phase, _ in phases] == ["0", "1", "2"]
    assert re.search(rf"^in the service: {phases[-1][1]} exemplars, 0\.\d\d right$", printed, re.MULTILINE)


@pytest.mark.slow
def test_a_vision_language_model_replays_as_many_bytes_whole_and_masked(tmp_path: Path) -> None:
    printed = run("vision_language", tmp_path, "1", warnings=["-W", "ignore"])  # transformers has advice for everybody
    rows = re.findall(r"^(\w+)[ \w]* +(\d+) +([\d,]+) +(\d+\.\d\d) +\d+\.\d\d$", printed, re.MULTILINE)
    samples = {name: int(number) for name, number, _, _ in rows}
    assert samples["nothing"] == 0 < samples["whole"] < samples["masked"]
    assert all(int(held.replace(",", "")) <= 10_000 for _, _, held, _ in rows)
    assert len({before for *_, before in rows}) == 1


def checkout(folder: Path, package: str, module: str) -> str:
    """A folder that has a module where a checkout of Mammoth or PyCIL has it, of the same signatures."""
    (folder / package).mkdir(parents=True)
    stub = FOLDER.parent / "tests" / "adapters" / f"{module}.py"
    name = {"mammoth_buffer": "buffer", "pycil_learner": "base"}[module]
    (folder / package / f"{name}.py").write_text(stub.read_text())
    return str(folder)


def test_what_needs_a_checkout_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    shared = importlib.import_module("shared")
    for arguments, said in (
        ([], "a checkout is needed: git clone"),
        ([str(tmp_path)], "it has no module utils.buffer"),
    ):
        monkeypatch.setattr(sys, "argv", ["mammoth_er.py", *arguments])
        with pytest.raises(SystemExit, match=said):
            shared.from_checkout("github.com/aimagelab/mammoth", "utils.buffer")


def test_mammoths_buffer_has_its_pictures_in_the_service(tmp_path: Path) -> None:
    printed = run("mammoth_er", tmp_path, checkout(tmp_path / "mammoth", "utils", "mammoth_buffer"), "4")
    # Twenty or so of a reservoir: a class may have none.
    said = re.search(r"^phase 2: (\d+) exemplars of [456] classes, (\d,\d{3}) of 9,000 bytes", printed, re.MULTILINE)
    assert said is not None
    assert re.search(rf"^{said[1]} of 40 places, 0\.\d\d right$", printed, re.MULTILINE)


def test_pycils_memory_is_in_the_service(tmp_path: Path) -> None:
    printed = run("pycil_memory", tmp_path, checkout(tmp_path / "pycil", "models", "pycil_learner"))
    said = re.findall(r"^phase (\d): \d+ stored, \d+ evicted; (\d+) exemplars", printed, re.MULTILINE)
    assert [phase for phase, _ in said] == ["0", "1", "2"]
    assert re.search(
        rf"^{said[-1][1]} exemplars as an array: \({said[-1][1]}, 64, 64, 3\) uint8$", printed, re.MULTILINE
    )


def test_torchrls_transitions_are_in_the_service(tmp_path: Path) -> None:
    printed = run("torchrl_replay", tmp_path, "2")
    assert re.search(r"^phase 5: 100 exemplars of 5 classes, [\d,]+ of 200,000 bytes", printed, re.MULTILINE)
    assert re.search(r"^100 of 100 slots, 0\.\d\d right$", printed, re.MULTILINE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_they_are_short_and_listed(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) < 60
    assert name in (FOLDER / "README.md").read_text()
    if name not in ("shared", "tiny_llava"):
        assert "on two cores" in " ".join(text.split('"""')[1].split())
