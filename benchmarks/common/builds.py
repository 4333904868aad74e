"""Earlier builds of the project, to measure beside this one."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from benchmarks.common.processes import ROOT


class NoBuildError(RuntimeError):
    """There is nothing to compare with; the message says why."""


def checkout(commit: str, place: Path) -> Path:
    """The files of a commit, in a folder.

    Raises:
        NoBuildError: this is no clone, or one without that commit.
    """
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise NoBuildError(f"git has no commit {commit} here: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as files:
        files.extractall(place, filter="data")
    return place
