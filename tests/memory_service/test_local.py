"""The Unix socket: HTTP over it, and draws that hand files over. Who says nonsense on it is cut, and nobody else."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import checksum, lending
from memory_service.cli import main
from memory_service.http.local import may_read_everything, open_listener, remove_socket
from tests.descriptors import open_links
from tests.memory_service.helpers import Server, make_exemplar, push, put_buffer, stats_of, wait_until


@contextmanager
def serving(data: Path, *arguments: str) -> Iterator[tuple[Server, httpx.Client, Path]]:
    path = data.parent / "socket"
    with Server(data, "--uds", str(path), *arguments) as server, server.client() as client:
        put_buffer(client, 10**6, eviction="fifo")
        push(client, [make_exemplar(number % 3, number) for number in range(40)])
        yield server, client, path


class Reader:
    """A client of the local way that does as it is told."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(path))

    def begin(self) -> bytes:
        self.socket.sendall(lending.PREFACE)
        return self.answer()[0]

    def ask(self, content: bytes, length: int | None = None) -> None:
        self.socket.sendall(lending.REQUEST.pack(lending.DRAW, len(content) if length is None else length) + content)

    def draw(self, **wanted: Any) -> tuple[bytes, list[int]]:
        self.ask(json.dumps({"buffer": "b", **wanted}).encode())
        return self.answer()

    def done(self) -> None:
        self.socket.sendall(lending.REQUEST.pack(lending.DONE, 0))

    def answer(self) -> tuple[bytes, list[int]]:
        """A whole answer and its descriptors."""
        received, descriptors = b"", list[int]()
        total = lending.ANSWER.size
        while len(received) < total:
            piece, found, _, _ = socket.recv_fds(self.socket, 65536, 253)
            assert piece, "it was closed"
            received += piece
            descriptors += found
            if len(received) >= lending.ANSWER.size:
                total = lending.ANSWER.size + lending.ANSWER.unpack_from(received)[1]
        assert len(received) == total
        return received, descriptors

    def is_closed(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def said(answer: bytes) -> tuple[bytes, str]:
    return answer[:4], answer[lending.ANSWER.size :].decode()


def test_http_goes_over_the_socket_and_the_port(data: Path) -> None:
    with serving(data) as (server, client, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        told = client.get("/v1").json()["local"]
        assert told["path"] == str(path)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as over:
            assert over.get("/healthz").json() == {"status": "ok"}
            assert over.get("/v1").json()["local"] == told
            assert len(over.post("/v1/buffers/b/sample", json={"batch_size": 3}).content) > 1000
            assert over.get("/healthz", headers={"Host": "elsewhere.org"}).status_code == 403
        assert server.stop().status == 0
    assert not path.exists()


def test_without_a_socket_nothing_is_told(client: httpx.Client) -> None:
    assert client.get("/v1").json()["local"] is None


def test_a_service_may_have_a_socket_alone(data: Path) -> None:
    with serving_alone(data) as (server, path):
        assert server.url == f"unix://{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as over:
            assert over.get("/readyz").status_code == 200
        listening = Path(f"/proc/{server.process.pid}/net/tcp").read_text()
        held = {link for _, link in open_links(server.process.pid)}
        assert not any(f"socket:[{line.split()[9]}]" in held for line in listening.splitlines()[1:])


@contextmanager
def serving_alone(data: Path) -> Iterator[tuple[Server, Path]]:
    path = data.parent / "socket"
    with Server(data, "--uds", str(path), "--uds-only") as server:
        yield server, path


def test_a_socket_alone_needs_a_path(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--data", str(data), "--uds-only"]) == 2
    assert "uds_only needs a socket to listen on" in capsys.readouterr().err


def test_what_a_killed_service_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = open_listener(path)
    with pytest.raises(OSError, match="somebody listens there"):
        open_listener(path)
    first.close()
    assert path.is_socket()
    second = open_listener(path)
    inode = path.stat().st_ino
    remove_socket(path, inode + 1)
    assert path.exists()
    remove_socket(path, inode)
    assert not path.exists()
    second.close()
    path.write_text("somebody's")
    with pytest.raises(OSError, match="something else than a socket"):
        open_listener(path)
    assert path.read_text() == "somebody's"
    with pytest.raises(OSError, match="cannot listen on"):
        open_listener(tmp_path / "missing" / "socket")
    with pytest.raises(OSError, match="cannot listen on"):
        open_listener(tmp_path / ("long" * 40))


def test_files_are_for_the_services_own_user() -> None:
    assert may_read_everything(os.getuid())
    assert not may_read_everything(os.getuid() + 1)
    assert not may_read_everything(None)
    one, other = socket.socketpair()
    with one, other:
        assert lending.peer_uid(one) == os.getuid()


def test_a_draw_hands_over_files_that_can_only_be_read(data: Path) -> None:
    with serving(data, "--access-log") as (server, client, path), Reader(path) as reader:
        assert reader.begin() == lending.encode_message(
            lending.HELO, client.get("/v1").json()["local"]["instance"].encode()
        )
        for step in range(3):
            answer, descriptors = reader.draw(batch_size=8, step=step)
            lent = lending.decode_rows(answer)
            assert len(descriptors) == lent.num_segments == 1
            for row in lent.rows:
                body = os.pread(descriptors[0], int(row["length"]), int(row["offset"]))
                assert checksum.crc32(body) == row["crc32"]
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(descriptors[0], b"x")
            os.close(descriptors[0])
            reader.done()
        assert stats_of(client)["samples"] == 3
        log = server.stop().stderr
    assert log.count("local DRAW /v1/buffers/b/sample 200") == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"[]", "names its buffer"),
        (b'{"batch_size": 3}', "names its buffer"),
        (b'{"buffer": "other", "batch_size": 3}', "no buffer"),
        (b'{"buffer": "b", "batch_size": 0}', "batch_size"),
        (b'{"buffer": "b", "batch_size": 3, "unheard": 1}', "unheard"),
        (b'{"buffer": "b", "batch_size": 3, "version": 99}', "version"),
        (b'{"buffer": "b", "batch_size": 3, "snapshot": "none"}', "snapshot"),
    ],
)
def test_what_cannot_be_drawn_is_to_be_asked_over_http(shared: Path, content: bytes, words: str) -> None:
    with Reader(shared) as reader:
        reader.begin()
        reader.ask(content)
        answer, descriptors = reader.answer()
        kind, why = said(answer)
        assert (kind, descriptors) == (lending.HTTP, [])
        assert words in why
        # The connection goes on.
        _, descriptors = reader.draw(batch_size=3)
        assert len(descriptors) == 1
        os.close(descriptors[0])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a service for tests that leave its buffer as it is."""
    with serving(tmp_path_factory.mktemp("local") / "store") as (server, client, path):
        yield path
        assert client.get("/readyz").status_code == 200
        assert server.stop().status == 0


@pytest.mark.parametrize(
    "sent",
    [
        lending.REQUEST.pack(b"WHAT", 0),
        lending.REQUEST.pack(lending.DONE, 1) + b"x",
        lending.REQUEST.pack(lending.DRAW, 2**32 - 1),
        lending.PREFACE,
    ],
)
def test_nonsense_ends_a_connection(shared: Path, sent: bytes) -> None:
    with Reader(shared) as reader:
        reader.begin()
        reader.socket.sendall(sent)
        assert reader.is_closed()


def test_made_up_bytes_harm_nobody(shared: Path) -> None:
    rng = random.Random(0)
    with Reader(shared) as steady:
        steady.begin()
        for number in range(150):
            with Reader(shared) as reader:
                reader.begin()
                good = json.dumps({"buffer": "b", "batch_size": 3, "step": number}).encode()
                message = bytearray(lending.REQUEST.pack(lending.DRAW, len(good)) + good)
                for _ in range(rng.randrange(1, 5)):
                    message[rng.randrange(len(message))] = rng.randrange(256)
                # It may be cut before all is sent.
                with suppress(ConnectionError):
                    reader.socket.sendall(message)
                    if number % 3:
                        reader.socket.sendall(rng.randbytes(rng.randrange(200)))
        _, descriptors = steady.draw(batch_size=3)
        assert len(descriptors) == 1
        os.close(descriptors[0])


def test_who_stalls_is_cut(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_LEASE_SECONDS", "0.5")
    monkeypatch.setenv("MEMORY_SERVICE_HEAD_SECONDS", "0.5")
    with serving(data) as (_, client, path), Reader(path) as reading, Reader(path) as asking, Reader(path) as idle:
        for reader in (reading, asking, idle):
            reader.begin()
        _, descriptors = reading.draw(batch_size=40)
        push(client, [make_exemplar(0, number, pad=20_000) for number in range(48)])
        client.delete("/v1/buffers/b/exemplars", params={"class_id": [0, 1, 2]})
        assert stats_of(client)["held_bytes"] > 0
        asking.ask(b'{"buffer"', length=30)
        assert reading.is_closed()
        assert asking.is_closed()
        wait_until(lambda: stats_of(client)["held_bytes"] == 0)
        # Whoever waits for nothing may stay.
        kind, _ = said(idle.draw(batch_size=1)[0])
        assert kind == lending.HTTP
        os.close(descriptors[0])


def test_a_client_that_was_killed_holds_nothing(data: Path) -> None:
    with serving(data) as (_, client, path):
        child = os.fork()
        if not child:
            try:
                reader = Reader(path)
                reader.begin()
                reader.draw(batch_size=8)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        client.delete("/v1/buffers/b/exemplars", params={"class_id": [0, 1, 2]})
        wait_until(lambda: stats_of(client)["held_bytes"] == 0)


def test_what_a_change_needs_is_taken_from_who_stalls(data: Path) -> None:
    budget = 5 * 2**20
    size = make_exemplar(pad=50_000).charge
    with serving(data) as (_, client, path), Reader(path) as reader:
        put_buffer(client, budget, buffer="full", eviction="fifo", disk_limit_bytes=budget * 3 // 2)
        records = [make_exemplar(0, number, pad=50_000) for number in range(budget // size)]
        push(client, records, buffer="full")
        reader.begin()
        _, descriptors = reader.draw(buffer="full", batch_size=200)
        began = time.monotonic()
        for part in range(4):
            push(client, records[part::4], buffer="full")
            figures = stats_of(client, buffer="full")
            assert figures["disk_bytes"] <= figures["disk_limit_bytes"]
        assert time.monotonic() - began < 15
        assert reader.is_closed()
        for number in descriptors:
            os.close(number)


def test_an_idle_connection_makes_room_for_another(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_MAX_CONNECTIONS", "8")
    with serving(data) as (_, client, path), ExitStack() as stack:
        readers = []
        for _ in range(20):
            readers.append(stack.enter_context(Reader(path)))
            readers[-1].begin()
        assert readers[0].is_closed()
        _, descriptors = readers[-1].draw(batch_size=2)
        os.close(descriptors[0])
        assert client.get("/readyz").status_code == 200
