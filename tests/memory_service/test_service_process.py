"""The launcher that users' tests start a real service with."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from memory_service.testing import NotStartedError, ServiceProcess


def test_it_serves_and_ends_with_the_block(data: Path) -> None:
    with ServiceProcess(data) as service:
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        assert service.process.poll() is None
    assert service.process.returncode == -signal.SIGKILL
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/readyz")


def test_it_is_stopped_once_and_says_what_it_said(data: Path) -> None:
    with ServiceProcess(data, "--access-log") as service:
        httpx.get(f"{service.url}/healthz")
        ended = service.stop()
        assert (ended.status, ended.stdout) == (0, "")
        assert "GET /healthz" in ended.stderr
        assert service.stop() == service.kill() == ended


def test_arguments_environment_and_a_log_of_its_own(data: Path) -> None:
    log = data.parent / "logs" / "service.log"
    for number in (1, 2):
        environment = {"MEMORY_SERVICE_ACCESS_LOG": "true"}
        with ServiceProcess(data, "--log-level", "info", environment=environment, log=log) as service:
            httpx.get(f"{service.url}/healthz")
            assert service.stop().stderr == ""
        assert log.read_text().count("GET /healthz") == number


def test_a_session_of_its_own_is_spared_ctrl_c(data: Path) -> None:
    with ServiceProcess(data, own_session=True) as service:
        assert os.getsid(service.process.pid) == service.process.pid


@pytest.mark.parametrize("own_log", [False, True])
def test_one_that_does_not_start_says_why(data: Path, own_log: bool) -> None:
    log = data.parent / "service.log" if own_log else None
    if log is not None:
        log.write_text("of an earlier one\n")
    with ServiceProcess(data), pytest.raises(NotStartedError, match=r"exit status 2, .* held by another") as failed:
        ServiceProcess(data, log=log)
    assert "of an earlier one" not in str(failed.value)


def test_one_that_is_not_ready_in_time_is_ended(data: Path) -> None:
    with pytest.raises(NotStartedError, match=r"said nothing for 0\.01 s; exit status -9, log: empty"):
        ServiceProcess(data, start_seconds=0.01)


def test_one_that_does_not_end_in_time_is_killed(data: Path) -> None:
    with ServiceProcess(data) as service:
        os.kill(service.process.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match=r"did not end in 0\.1 s; exit status -9"):
            service.stop(seconds=0.1)
