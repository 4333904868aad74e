"""The benchmark of the adapters: a quick run is told as a table, and made again from its JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.results.__main__ import main as render


def test_a_quick_run_ends_in_a_table(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.adapters", "--quick", "--results", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert {*told["ratios"]} == {
        f"{library}, {side} px" for library in ("Avalanche", "PyCIL", "torchrl") for side in (32, 64)
    }
    assert told["largest"] == max(told["ratios"].values())
    page = tmp_path / "adapters" / "latest.md"
    before = page.read_text()
    assert before.count("\n| ") == 7
    page.unlink()
    assert render([str(page.with_suffix(".json"))]) == 0
    assert page.read_text() == before
