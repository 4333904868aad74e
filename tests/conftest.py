"""What all tests share: repeatable hypothesis runs, and a real service process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run: a failing test fails again. HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
# Longer runs of what a store must never do: see `make nightly`.
settings.register_profile("nightly", settings.get_profile("search"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# As `make` has it: what tests download stays in the checkout, and is downloaded once.
os.environ.setdefault("EXEMPLAR_MEMORY_DATA", str(Path(__file__).parents[1] / "data"))

_READY = re.compile(r"memory-service listening on (http://\S+) \(data: (.*)\)")
_START_SECONDS = 30
_STOP_SECONDS = 15


@dataclass
class Service:
    """A memory service in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    data: Path
    log: Path

    def kill(self) -> None:
        """As the machine's power would: no chance to clean up."""
        self.process.kill()
        self._close()

    def stop(self) -> None:
        """Ask it to end, and insist that it ends well."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS)
        finally:
            self.kill()
        assert self.process.returncode == 0, self.log.read_text()

    def _close(self) -> None:
        self.process.wait(_STOP_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


def launch_service(data: Path, *options: str) -> Service:
    """Start ``memory-service serve`` on a free port and wait until it listens."""
    data.parent.mkdir(parents=True, exist_ok=True)
    log = data.parent / f"{data.name}.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "memory_service", "serve", "--data", str(data), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    assert process.stdout is not None
    # A service that hangs before its line is ended, which ends the reading.
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
        watchdog.join()
    found = _READY.match(line)
    if found is None:
        process.kill()
        process.wait()
        process.stdout.close()
        pytest.fail(f"the service did not start: {line!r}\n{log.read_text()}")
    return Service(process, found[1], data, log)


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services that end with the test: ``start_service(data=None, *options)``."""
    running: list[Service] = []

    def start(data: Path | None = None, *options: str) -> Service:
        running.append(launch_service(data or tmp_path / "store", *options))
        return running[-1]

    yield start
    for service in running:
        if service.process.poll() is None:
            service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that do not mind sharing it. Take buffers of your own name."""
    running = launch_service(tmp_path_factory.mktemp("service") / "store")
    yield running
    running.stop()
