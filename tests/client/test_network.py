"""Calls that end in time whatever the other side does, outlast a restart, and work in a forked process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from client import Buffer, MemoryClient, Retries, ServiceTimeoutError, ServiceUnavailableError, Timeout
from client._network import keep_deadlines
from memory_format.wire_schema import WIRE_VERSION
from tests.client.samples import make_many
from tests.conftest import Service

Behave = Callable[[socket.socket, threading.Event], None]

_LATE = 20.0
"""Seconds that nothing here takes on the way to its deadline of one."""

INFO = b'{"service": "exemplar-memory", "version": "0.1.0", "wire_version": "%s"}' % WIRE_VERSION.encode()


@contextlib.contextmanager
def listening(behave: Behave) -> Iterator[str]:
    """A server on loopback that treats each connection so, until the block ends."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client goes away
            behave(connection, over)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096) or b"\r\n\r\n"
    return head


def answer(connection: socket.socket, body: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def drip(connection: socket.socket, over: threading.Event, data: bytes) -> None:
    for place in range(len(data)):
        if over.wait(0.05):
            return
        connection.sendall(data[place : place + 1])


def drip_its_body(connection: socket.socket, over: threading.Event) -> None:
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    drip(connection, over, b" " * 10_000)


def drip_its_head(connection: socket.socket, over: threading.Event) -> None:
    read_head(connection)
    drip(connection, over, b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 1000)


def say_nothing(connection: socket.socket, over: threading.Event) -> None:
    read_head(connection)
    over.wait()


@pytest.mark.parametrize("behave", [drip_its_body, drip_its_head, say_nothing])
def test_a_call_ends_with_its_total_however_the_answer_comes(behave: Behave) -> None:
    with listening(behave) as url, MemoryClient(url, timeout=Timeout(total=1)) as memory:
        started = time.monotonic()
        with pytest.raises(ServiceTimeoutError, match=r"/v1: not done within 1 s.*Timeout\.total"):
            memory.buffers()
        assert 0.9 < time.monotonic() - started < _LATE


@pytest.mark.parametrize("seconds", [None, 0.02], ids=["stalled", "dripping"])
def test_a_call_ends_with_its_total_however_its_body_is_taken(seconds: float | None) -> None:
    def take_little(connection: socket.socket, over: threading.Event) -> None:
        if read_head(connection).startswith(b"GET /v1 "):
            answer(connection, INFO)
            read_head(connection)
        while not over.wait(seconds):
            connection.recv(100)

    with listening(take_little) as url, MemoryClient(url, timeout=Timeout(total=1)) as memory:
        started = time.monotonic()
        with pytest.raises(ServiceTimeoutError, match=r"POST .* not done within 1 s"):
            memory.session.request("POST", "/v1/buffers/b/exemplars", content=bytes(16 * 1024 * 1024))
        assert 0.9 < time.monotonic() - started < _LATE


def test_a_buffer_that_goes_to_a_file_may_take_longer_than_a_call_as_long_as_it_moves(tmp_path: Path) -> None:
    """Three MiB, each within its two seconds, and then a drip."""
    sent = threading.Event()

    def send_slowly(connection: socket.socket, over: threading.Event) -> None:
        if read_head(connection).startswith(b"GET /v1 "):
            answer(connection, INFO)
            read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(3):
            over.wait(0.8)
            connection.sendall(b"x" * (1024 * 1024 + 1))
        sent.set()
        drip(connection, over, b"x" * 10_000)

    with listening(send_slowly) as url, MemoryClient(url, timeout=Timeout(total=2)) as memory:
        with pytest.raises(ServiceTimeoutError, match="not done within 2 s"):
            Buffer(memory, "b").export(tmp_path / "b.zip")
        assert sent.is_set()
    assert list(tmp_path.iterdir()) == []


def test_proxies_and_plain_connections_keep_deadlines_alike() -> None:
    with httpx.Client(proxy="http://127.0.0.1:9") as through, httpx.Client() as straight:
        for client in (through, straight):
            keep_deadlines(client)
            for transport in (client._transport, *client._mounts.values()):
                backend = transport._pool._network_backend  # type: ignore[union-attr]
                assert type(backend).__module__ == "client._network"


def test_a_service_without_tls_needs_nothing_of_openssl(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no thread ends in OpenSSL while a worker is forked."""

    def refuse(*args: object, **more: object) -> None:
        pytest.fail("a TLS context is made")

    monkeypatch.setattr(ssl, "create_default_context", refuse)
    with MemoryClient(service.url) as memory, memory.clone() as other:
        assert memory.health()
        assert other.health()


def test_a_service_with_tls_is_asked_for_its_certificate() -> None:
    with MemoryClient("https://127.0.0.1:9", retries=Retries(tries=1)) as memory:
        context = memory.session.transport.addresses.first.connections.http()._transport._pool._ssl_context  # type: ignore[attr-defined]
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.cert_store_stats()["x509_ca"] > 0
        with pytest.raises(ServiceUnavailableError, match="refused"):
            memory.health()


def test_default_retries_outlast_a_restart(start_service: Callable[..., Service]) -> None:
    """Stopped, and back after three seconds of the client's own waits: 1.8 s were measured."""
    service = start_service()
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("b", budget_bytes=1_000_000)
        buffer.push(make_many(4))
        service.stop()
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if sum(waits) > 3 >= sum(waits[:-1]):
                start_service(service.data, "--port", service.url.rsplit(":", 1)[1])

        memory.session.transport._sleep = wait
        assert buffer.push(make_many(4, first=4)).kept == 4
        assert sum(waits) > 3
        assert buffer.info().num_records == 8


def test_the_waits_of_default_retries_sum_to_more_than_any_restart() -> None:
    retries = Retries()
    longest = [min(retries.max_wait, retries.first_wait * 2**n) for n in range(retries.tries - 1)]
    assert sum(longest) / 2 >= 8
    assert sum(longest) < Timeout().total


def in_a_fork(do: Callable[[], object]) -> None:
    """Runs in a forked child, which must end by itself and well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(found[1]) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_opens_connections_of_its_own(service: Service) -> None:
    with MemoryClient(service.url) as memory:
        memory.health()
        connections = memory.session.transport.addresses.first.connections
        pool = connections.http()._transport._pool  # type: ignore[attr-defined]
        (connection,) = pool.connections
        # As a thread that is in the middle of a call at the time of the fork.
        with connections._opening, pool._optional_thread_lock:

            def ask() -> None:
                assert memory.health()
                assert connections.http()._transport._pool is not pool  # type: ignore[attr-defined]
                memory.close()
                with pytest.raises(ServiceUnavailableError, match="closed"):
                    memory.health()

            in_a_fork(ask)
        # The child has closed its own.
        assert memory.health()
        assert pool.connections == [connection]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_closed_client_stays_closed_in_a_fork_and_waits_differ(service: Service) -> None:
    memory = MemoryClient(service.url)
    memory.close()
    readable, writable = os.pipe()

    def draw() -> str:
        return repr([memory.session.transport._backoff(attempt) for attempt in range(1, 4)])

    def ask() -> None:
        os.write(writable, draw().encode())
        with pytest.raises(ServiceUnavailableError, match="closed"):
            memory.health()

    in_a_fork(ask)
    os.close(writable)
    with open(readable, encoding="ascii") as drawn:
        assert drawn.read() != draw()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "localhost:{}", "http://127.0.0.1:{}/"])
def test_an_address_may_lack_its_scheme(service: Service, address: str) -> None:
    with MemoryClient(address.format(service.url.rsplit(":", 1)[1])) as memory:
        assert memory.health()
        assert memory.url.startswith("http://")


@pytest.mark.parametrize(
    "address",
    ["", "http://", "unix://", "ftp://h", "http://h:port", "h:port", "http://[::1", "h:99999", "h:0",
     "http://h/?buffer=b", None, 8765, b"127.0.0.1:8765"],
)  # fmt: skip
def test_what_is_no_address_is_told_so(address: object) -> None:
    with pytest.raises(ValueError, match=r"must be http\(s\)://host"):
        MemoryClient(address)  # type: ignore[arg-type]
