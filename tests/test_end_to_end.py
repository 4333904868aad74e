"""What ``make demo`` runs, smaller: real processes, real data, a real store; and Ctrl-C in the middle of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from learner.data.fetch import data_dir
from learner.run.methods import DEFAULT
from learner.run.summary import label
from tests.memory_service.helpers import wait_until

ROOT = Path(__file__).parent.parent
CONFIG = """
[data]
num_classes = 4
train_per_class = 10
test_per_class = 4
image_size = 64
base_classes = 2
classes_per_phase = 2
[backbone]
kind = "small"
hidden_size = 64
num_layers = 2
[train]
base_epochs = 1
ssf_epochs = 1
[memory]
budget_bytes = 6000
"""


def _start(folder: Path) -> subprocess.Popen[str]:
    (folder / "run.toml").write_text(CONFIG)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "demo.py"), "--config", "run.toml", "--seeds", "2"],
        cwd=folder,
        env=os.environ | {"EXEMPLAR_MEMORY_DATA": str(data_dir().resolve()), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A background job of a shell ignores Ctrl-C, and its children with it: this test must work there too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _left_over(folder: Path) -> list[str]:
    """Command lines of processes that work in ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended, or is another user's
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_demo_runs_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    first = _start(tmp_path)
    assert first.stdout is not None
    seen = []
    for line in first.stdout:
        seen.append(line)
        if f"{label('full')} phase 1/2" in line:
            break
    first.send_signal(signal.SIGINT)
    # As a terminal does: Ctrl-C reaches every process of the foreground group.
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                f"PPid:\t{first.pid}\n" in (process / "status").read_text()
                and b"learner" in (process / "cmdline").read_bytes()
            ):
                os.kill(int(process.name), signal.SIGINT)
        except OSError:
            continue
    with first.stdout:
        rest = first.stdout.read()
    assert first.wait(30) == 130, "".join(seen) + rest
    assert "goes on from there" in rest
    assert _left_over(tmp_path) == []

    started = time.monotonic()
    second = _start(tmp_path)
    output, _ = second.communicate(timeout=150)
    assert second.returncode == 0, output
    assert _left_over(tmp_path) == []
    assert output.count("phase 2/2") == 2 * 3
    for name in DEFAULT:
        assert f"\n  {label(name)} " in output
    out = tmp_path / "runs" / "demo"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seeds"] == [0, 1]
    assert summary["phases"] == 2
    assert summary["budget_bytes"] == 6000
    assert summary["seconds"] > 0
    assert summary["masked"]["exemplars"]["mean"] > summary["full"]["exemplars"]["mean"] > 0
    assert summary["none"]["exemplars"]["mean"] == 0
    for method in DEFAULT:
        assert all(0 <= last <= 1 for last in summary[method]["last"]["values"])
        assert all(used <= 6000 for used in summary[method]["bytes_used"]["values"])
    assert "<svg" in (out / "report.html").read_text()

    # A log that can be read in a narrow window, without bars; and commands at its end that work, of whatever length.
    lines = output.splitlines()
    assert max(map(len, lines[:-2])) <= 100, max(lines[:-2], key=len)
    assert "\r" not in output
    assert "95 % interval" in output
    _look(tmp_path, lines)

    # Once more: everything is there, nothing is trained again, and the same is said.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/checkpoint.pt")}
    assert len(before) == 2 * 3
    took = time.monotonic() - started
    started = time.monotonic()
    third = _start(tmp_path)
    again, _ = third.communicate(timeout=150)
    assert third.returncode == 0, again
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/checkpoint.pt")} == before
    assert time.monotonic() - started < took + 10
    clock = re.compile(r"127\.0\.0\.1:\d+ \(|done in \d+ s")
    assert clock.sub("", again) == clock.sub("", output)


def _look(folder: Path, lines: list[str]) -> None:
    """Do as the last lines say."""
    report, memory = lines[-2:]
    assert (folder / report.split()[-1]).name == "report.html"
    assert (folder / report.split()[-1]).exists()
    command = shlex.split(memory.removeprefix("the memory:"))
    opened = folder / "opened"
    # A browser that only notes what it is to open.
    (folder / "browser").write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    (folder / "browser").chmod(0o755)
    service = subprocess.Popen(
        [*command, "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "BROWSER": str(folder / "browser")},
    )
    try:
        assert service.stdout is not None
        listening = service.stdout.readline().split("listening on ")[1].split()[0]
        wait_until(opened.exists)
        assert opened.read_text().strip() == listening
        (run,) = re.findall(r'href="(/runs/[^"]+)"', _page(listening))
        shown = _page(listening + run)
        assert all(label(name) in shown for name in DEFAULT)
        assert re.findall(r'img src="([^"]+)"', shown)
        buffers = re.findall(r'href="(/buffers/[^"]+)/summary"', _page(listening))
        (thumbnail, *_) = re.findall(
            r'img src="([^"]+)"', "".join(_page(f"{listening}{each}/gallery") for each in buffers)
        )
        assert httpx.get(listening + thumbnail).headers["content-type"] == "image/webp"
    finally:
        service.terminate()
        service.communicate(timeout=30)


def _page(address: str) -> str:
    return httpx.get(address, headers={"Accept": "text/html"}).raise_for_status().text
