"""Connections that are held for nothing: heads, bodies and answers that do not move, and too many at once."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_service.http.connections import connections_that_fit
from memory_service.store.segments import files
from tests.descriptors import open_links
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    Server,
    all_records,
    assert_problem,
    make_exemplar,
    push,
    put_buffer,
    sample,
    wait_until,
)

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


class Client(httpx.Client):
    """Of a service of which the test sees the descriptors."""

    def __init__(self, server: Server) -> None:
        super().__init__(base_url=server.url, timeout=30)
        self.pid = server.process.pid

    def connections(self) -> int:
        """How many the service holds, this one and the one it listens on included."""
        return sum(link.startswith("socket:") for _, link in open_links(self.pid))


@contextmanager
def serving(data: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Client]:
    for name, value in settings.items():
        monkeypatch.setenv(f"MEMORY_SERVICE_{name.upper()}", str(value))
    with Server(data) as server, Client(server) as client:
        yield client


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service that waits for nobody for long."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        hasty = {"head_seconds": 1, "keep_alive_seconds": 1, "body_seconds": 1, "write_seconds": 1}
        bounds = {"head_bytes": 4096, "head_fields": 20, "least_rate": 100_000, "max_body_bytes": 10**6}
        with serving(tmp_path_factory.mktemp("hasty") / "store", monkeypatch, **hasty, **bounds) as client:
            put_buffer(client, 50_000_000)
            for rank in range(30):
                push(client, [make_exemplar(0, rank, pad=900_000)])
            yield client


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)


def expect_health(connection: socket.socket) -> None:
    """Read the answer to :data:`GET`, and no more."""
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    assert received.startswith(b"HTTP/1.1 200 ")


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    received = []
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received.append(piece)
    return b"".join(received)


def assert_refused(answer: bytes, status: int, code: str, words: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"connection: close" in head
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert words in problem["detail"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 5000,
        b"GET /healthz?" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b"X: " + b"a" * 5000,
        GET + b"X: " + b"a" * 5000 + b"\r\n\r\n",
        GET + b"a" * 5000,
        GET + b"X:" + b" " * 5000,
        b"\r\n" * 3000,
        # A million bytes on the way, of which most are not looked at any more.
        GET + b"X: " + b"a" * 1_000_000,
    ],
    ids=["address", "query", "value", "whole", "name", "spaces", "lines", "long"],
)
def test_a_head_has_so_many_bytes(hasty: Client, head: bytes) -> None:
    with connect(hasty) as connection:
        connection.sendall(head)
        assert_refused(rest_of(connection), 431, "invalid_request", "4096 bytes")


def test_a_head_that_comes_in_pieces_has_no_more(hasty: Client) -> None:
    with connect(hasty) as connection:
        connection.sendall(GET + b"X: ")
        with suppress(OSError):
            for _ in range(60):
                connection.sendall(b"a" * 100)
        assert_refused(rest_of(connection), 431, "invalid_request", "4096 bytes")


def test_a_head_has_so_many_fields(hasty: Client) -> None:
    with connect(hasty) as connection:
        connection.sendall(GET + b"A: b\r\n" * 19 + b"\r\n")
        expect_health(connection)
        # The next one on the same connection.
        connection.sendall(GET + b"A: b\r\n" * 20 + b"\r\n")
        assert_refused(rest_of(connection), 431, "invalid_request", "20 fields")


def test_lines_behind_a_body_are_bounded_too(hasty: Client) -> None:
    head = b"POST /v1/buffers/b/sample HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(hasty) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: " + b"a" * 5000)
        assert b"HTTP/1.1 200" not in rest_of(connection)
    assert hasty.get("/healthz").status_code == 200


def test_what_is_no_http_gets_words(hasty: Client) -> None:
    with connect(hasty) as connection:
        connection.sendall(b"hello\r\n\r\n")
        assert_refused(rest_of(connection), 400, "invalid_request", "HTTP")


@pytest.mark.parametrize(
    "body", [b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
)
def test_a_body_is_not_lost_to_an_offer_of_another_protocol(hasty: Client, body: bytes) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    with connect(hasty) as connection:
        connection.sendall(GET + offer + b"\r\n")
        expect_health(connection)
        connection.sendall(b"POST /v1/buffers/b/sample HTTP/1.1\r\nHost: localhost\r\n" + offer + body)
        assert_refused(rest_of(connection), 400, "invalid_request", "no Upgrade with a body")


def test_requests_behind_one_another_are_each_counted_anew(hasty: Client) -> None:
    request = GET + b"X: " + b"a" * 1000 + b"\r\n\r\n"
    with connect(hasty) as connection:
        connection.sendall(request * 40 + GET + b"Connection: close\r\n\r\n")
        assert rest_of(connection).count(b"HTTP/1.1 200 OK") == 41


def test_a_head_has_so_many_seconds(hasty: Client) -> None:
    def drip(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(b"a")
                time.sleep(0.05)

    with connect(hasty) as first, connect(hasty) as second, connect(hasty) as silent:
        second.sendall(GET + b"\r\n")
        expect_health(second)
        threads = [threading.Thread(target=drip, args=(connection,)) for connection in (first, second)]
        first.sendall(GET)
        second.sendall(GET)
        for thread in threads:
            thread.start()
        for connection in (first, second):
            assert_refused(rest_of(connection), 408, "invalid_request", "1 s")
        assert rest_of(silent) == b""
    for thread in threads:
        thread.join()


def test_idle_connections_are_closed(hasty: Client) -> None:
    began = time.monotonic()
    with connect(hasty) as idle, connect(hasty) as odd:
        idle.sendall(GET + b"\r\n")
        odd.sendall(GET + b"\r\n")
        expect_health(odd)
        # Empty lines before a request are no request.
        odd.sendall(b"\r\n")
        assert rest_of(idle).startswith(b"HTTP/1.1 200 ")
        rest_of(odd)
    assert time.monotonic() - began < 10


def test_a_body_behind_its_answer_is_not_waited_for(hasty: Client) -> None:
    """It was refused, and goes on all the same: slowly, or for ever."""
    head = b"POST /v1/buffers/none/exemplars HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"

    def send(connection: socket.socket, piece: bytes, pause: float) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(piece)
                time.sleep(pause)

    with connect(hasty) as slow, connect(hasty) as fast:
        senders = [
            threading.Thread(target=send, args=arguments)
            for arguments in ((slow, b"a", 0.05), (fast, b"a" * 10_000, 0))
        ]
        for connection, sender in zip((slow, fast), senders, strict=True):
            connection.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
            sender.start()
        for connection in (slow, fast):
            assert b"HTTP/1.1 4" in rest_of(connection)
        for sender in senders:
            sender.join()


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("POST", "/v1/buffers/b/sample", b'{"batch_size": 64}'),
        ("GET", "/v1/buffers/b/export", b""),
        ("GET", "/v1/buffers/b/exemplars?limit=1000", b""),
    ],
    ids=["sample", "export", "query"],
)
def test_an_answer_that_nobody_takes_is_cut_off(hasty: Client, method: str, url: str, body: bytes) -> None:
    head = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Accept: application/vnd.apache.arrow.stream\r\nContent-Length: {len(body)}\r\n\r\n"
    before = hasty.connections()
    with connect(hasty) as stalled, connect(hasty) as dripping:
        for connection in (stalled, dripping):
            connection.sendall(head.encode() + body)
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        assert hasty.connections() > before

        def are_cut() -> bool:
            # Reading on a little does not help: it is a rate that is asked for.
            dripping.recv(10)
            return hasty.connections() <= before

        wait_until(are_cut, 20)
        # What the system held for it.
        assert len(rest_of(stalled)) < 20_000_000
    assert len(all_records(hasty)) == 30


def test_a_slow_reader_gets_all_of_it(hasty: Client) -> None:
    """Slow is not stalled: longer than the seconds in all, and faster than the least rate."""
    with hasty.stream("GET", "/v1/buffers/b/export") as answer:
        began, received = time.monotonic(), 0
        for piece in answer.iter_raw(500_000):
            received += len(piece)
            time.sleep(0.05)
    assert received > 25_000_000
    assert time.monotonic() - began > 2


def test_small_answers_that_nobody_takes(hasty: Client) -> None:
    """Each fits what the system holds; the client asks on and reads nothing."""
    before = hasty.connections()
    with connect(hasty) as greedy:
        with suppress(OSError):
            for _ in range(20_000):
                greedy.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: hasty.connections() <= before, 20)


def test_beyond_so_many_connections_idle_ones_make_room(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"PUT /v1/buffers/c HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(data, monkeypatch, max_connections=8) as client, ExitStack() as stack:
        put_buffer(client)
        push(client, [make_exemplar()])
        idle = [stack.enter_context(connect(client)) for _ in range(30)]
        for connection in idle:
            with suppress(OSError):
                connection.sendall(GET + b"\r\n")
        # There is always room for one that asks.
        for _ in range(20):
            assert httpx.get(str(client.base_url) + "/readyz").status_code == 200
        assert len(sample(client, batch_size=4)) == 4
        # In use: a request that has begun is not idle.
        busy = []
        for _ in range(8):
            busy.append(stack.enter_context(connect(client)))
            busy[-1].sendall(head + b"Content-Length: 100\r\n\r\n{")
        wait_until(lambda: httpx.get(str(client.base_url) + "/healthz").status_code == 429)
        response = httpx.get(str(client.base_url) + "/healthz")
        assert (response.json()["code"], response.json()["limit"]) == ("too_busy", 8)
        assert "Retry-After" in response.headers
        busy.pop().close()
        wait_until(lambda: httpx.get(str(client.base_url) + "/healthz").status_code == 200)


def test_a_thousand_more_than_there_are_descriptors_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, max_connections=50) as client, ExitStack() as stack:
        put_buffer(client)
        for _ in range(400):
            stack.enter_context(connect(client))
        wait_until(lambda: client.connections() <= 50 + 64 + 2)
        push(client, [make_exemplar()])
        assert client.get("/readyz").status_code == 200


def test_the_ceiling_is_below_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr("resource.getrlimit", lambda _kind: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda _kind, given: limits.append(given))
    assert connections_that_fit(100, 256) == 100
    assert limits == [(1024, 4096)]
    # The soft limit is raised where that helps.
    assert connections_that_fit(1000, 256) == 1000
    assert limits[-1] == (1512, 4096)
    assert connections_that_fit(10_000, 256) == 4096 - 512
    limits.append((512, 512))
    with pytest.raises(OSError, match="too low"):
        connections_that_fit(1000, 256)


def test_without_descriptors_it_is_not_ready(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch) as client:
        assert client.get("/readyz").status_code == 200
        limits = resource.prlimit(client.pid, resource.RLIMIT_NOFILE)
        # The lowest free number is above those in use.
        resource.prlimit(client.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
        assert_problem(client.get("/readyz"), "storage_failed")
        assert client.get("/healthz").status_code == 200
        resource.prlimit(client.pid, resource.RLIMIT_NOFILE, limits)
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("operation", ["create", "write_at", "sync"])
def test_with_a_full_disk_it_is_not_ready(data: Path, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with running(data) as client:
        with monkeypatch.context() as patch:
            patch.setattr(files, operation, fail)
            assert "the disk is full" in assert_problem(client.get("/readyz"), "storage_failed")["detail"]
        assert client.get("/readyz").status_code == 200
        assert not list((data / "incoming").iterdir())


def test_with_little_room_it_is_not_ready(data: Path) -> None:
    with running(data, least_free_bytes=2**60) as client:
        assert str(2**60) in assert_problem(client.get("/readyz"), "storage_failed")["detail"]
        assert client.get("/healthz").status_code == 200


def test_many_who_ask_whether_it_is_ready_share_one_check(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go, checks = threading.Event(), threading.Event(), []
    real = files.sync

    def slow(descriptor: int) -> None:
        checks.append(descriptor)
        began.set()
        assert go.wait(30)
        real(descriptor)

    with running(data) as client:
        monkeypatch.setattr(files, "sync", slow)
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(client.get("/readyz").status_code)) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert began.wait(30)
        # They hold no thread that others need.
        assert client.get("/v1/buffers").status_code == 200
        go.set()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        assert len(checks) < 8
