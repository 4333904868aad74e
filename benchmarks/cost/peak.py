"""The memory of a demo's learner and service, this build against an earlier one, one after the other.

Each takes the threads that it would take for a user: what is prepared for products of matrices, and kept, depends on
their number.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from benchmarks.common.processes import ROOT, START_SECONDS, peak_resident_bytes, running
from benchmarks.cost.run import Peak
from learner import before_torch
from memory_service.testing import ServiceProcess

_EVERY_SECONDS = 0.2


class _Demo:
    """A build's service, and its learner."""

    def __init__(self, build: Path, place: Path, words: list[str], environment: Mapping[str, str]) -> None:
        place.mkdir()
        own = {**environment, "PYTHONPATH": str(build), "PYTHONSAFEPATH": "1"}
        self._log = place / "learner.log"
        self._service = ServiceProcess(
            place / "memory", environment=own, log=place / "service.log", start_seconds=START_SECONDS
        )
        command = [sys.executable, "-m", "learner", "run", "--url", self._service.url, "--out", str(place / "out")]
        # What this process was told before it loaded torch is this build's: each says its own.
        others = {name: value for name, value in os.environ.items() if name not in before_torch.SAID}
        with self._log.open("wb") as log:
            self._learner = psutil.Popen([*command, *words], env=others | own, stdout=log, stderr=log)
        running.append(self)
        self._peak, self._began = 0, time.monotonic()

    def look(self) -> bool:
        """Whether the learner still runs; takes down what it has needed so far."""
        with contextlib.suppress(OSError, psutil.Error):
            self._peak = max(self._peak, peak_resident_bytes(self._learner.pid))
        return self._learner.poll() is None

    def found(self) -> Peak:
        """What both needed.

        Raises:
            RuntimeError: the learner failed.
        """
        if self._learner.poll() != 0:
            said = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise RuntimeError(f"a demo ended with status {self._learner.poll()}: {' / '.join(said)}")
        service = peak_resident_bytes(self._service.process.pid)
        return Peak(self._peak / 2**20, service / 2**20, time.monotonic() - self._began)

    def close(self) -> None:
        """End both."""
        if self in running:
            running.remove(self)
        if self._learner.poll() is None:
            self._learner.kill()
            self._learner.wait()
        self._service.stop()


def measure(
    place: Path, before: Path, directory: Path | None, words: list[str], *, tick: Callable[[str], object]
) -> dict[str, Peak]:
    """Run both demos.

    Args:
        place: where they work.
        before: the checkout of the build to compare with.
        directory: where data and weights are kept.
        words: arguments of ``learner run``.
    """
    environment = {"HF_HUB_OFFLINE": "1"} | ({"EXEMPLAR_MEMORY_DATA": str(directory)} if directory else {})
    found = {}
    for name, build in {"before": before, "after": ROOT}.items():
        tick(f"a demo's memory, {name}")
        with contextlib.closing(_Demo(build, place / name, words, environment)) as demo:
            while demo.look():
                time.sleep(_EVERY_SECONDS)
            found[name] = demo.found()
    return found
