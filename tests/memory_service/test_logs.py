"""Log lines never make anybody wait, whoever reads them."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_service.logs import REQUEST_ID, BackgroundHandler, logging_to_stderr
from tests.memory_service.helpers import Server

PIPE_BYTES = 64 * 1024


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def log_to(handler: logging.Handler, number: int) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, f"line {number} " + "." * 200, (), None)
    handler.handle(record)


def test_a_service_whose_log_nobody_reads_goes_on(data: Path) -> None:
    requests = 2_000
    with Server(data, "--access-log") as server, server.client() as client:
        for _ in range(requests):
            assert client.get("/healthz").status_code == 200
        status, _, log = server.stop()
    assert status == 0
    assert len(log) > 2 * PIPE_BYTES
    # Late, but whole.
    assert log.count("GET /healthz") == requests


def test_lines_that_do_not_fit_are_counted(pipe: tuple[int, int]) -> None:
    read, write = pipe
    handler = BackgroundHandler(write, most_waiting=10)
    num = 1_000
    for number in range(num):
        log_to(handler, number)
    said, dropped, logged = "", 0, 0
    # Each line is there or counted, whatever was read and written in between.
    while logged + dropped < num:
        said += os.read(read, 2**20).decode()
        logged = said.count(" x: line ")
        dropped = sum(int(count) for count in re.findall(r": ([0-9]+) lines were not logged", said))
    handler.close()
    assert logged + dropped == num
    assert 0 < dropped < num


def test_the_end_does_not_wait_for_a_reader_that_never_comes(pipe: tuple[int, int]) -> None:
    handler = BackgroundHandler(pipe[1])
    for number in range(1_000):
        log_to(handler, number)
    started = time.monotonic()
    handler.close()
    assert time.monotonic() - started < 10


def test_whoever_logged_before_goes_on_as_before() -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    with logging_to_stderr("DEBUG"):
        assert root.level == logging.DEBUG
    assert (root.level, root.handlers) == before


def test_a_request_s_id_is_on_the_line_that_it_belongs_to(pipe: tuple[int, int]) -> None:
    handler = BackgroundHandler(pipe[1])
    token = REQUEST_ID.set("mine")
    try:
        text = "uvicorn's lines end by themselves\n"
        line = handler.format(logging.LogRecord("x", logging.ERROR, "", 0, text, (), None))
    finally:
        REQUEST_ID.reset(token)
        handler.close()
    assert line.endswith(" ERROR x: uvicorn's lines end by themselves [mine]")
