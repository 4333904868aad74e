"""What all tests share: repeatable hypothesis runs, and a real service process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from learner import before_torch
from memory_service.testing import Ended, ServiceProcess

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

# The platform's, for the loaders of all tests. torchrl 0.14.1, imported first, makes it "spawn" for the whole process;
# and a spawned worker that ends while it sends a tensor may abort (torch 2.14.1). See findings/torchrl_start_method.sh.
multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0])

# As in a run: tests side by side share the cores.
before_torch.prepare()

# As `make` has it: what tests download stays in the checkout, and is downloaded once.
os.environ.setdefault("EXEMPLAR_MEMORY_DATA", str(Path(__file__).parents[1] / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--object-store",
        metavar="s3://BUCKET/PREFIX",
        help="an object store that runs, for the tests of one, found as a service finds it (AWS_ENDPOINT_URL, keys)",
    )


class Service(ServiceProcess):
    """A memory service whose log lies beside its store, and that has to end well."""

    def __init__(self, data: Path, *options: str) -> None:
        super().__init__(data, *options, log=data.parent / f"{data.name}.log")

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = 15) -> Ended:
        ended = super().stop(number, seconds=seconds)
        assert self.log is not None
        assert ended.status == 0, self.log.read_text()
        return ended


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services that end with the test: ``start_service(data=None, *options)``."""
    running: list[Service] = []

    def start(data: Path | None = None, *options: str) -> Service:
        running.append(Service(data or tmp_path / "store", *options))
        return running[-1]

    yield start
    for service in running:
        if service.process.poll() is None:
            service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that do not mind sharing it. Take buffers of your own name."""
    running = Service(tmp_path_factory.mktemp("service") / "store")
    yield running
    running.stop()
