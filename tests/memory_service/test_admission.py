"""How much is taken in at once: slow clients, stalled ones, those that go away, and many at a time."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import MEDIA_TYPE, encode_batch
from tests.memory_service.helpers import (
    ARROW,
    Server,
    all_records,
    assert_consistent,
    assert_problem,
    make_exemplar,
    push,
    put_buffer,
    sample,
    wait_until,
)

URL = "/v1/buffers/b/exemplars"
ZIP = {"Content-Type": "application/zip"}
PROMPT = 2.0
"""Seconds that an answer may take which waits for nobody; with room for a busy machine."""


@contextmanager
def serving(data: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[httpx.Client]:
    """A real server, with a buffer that holds a little."""
    for name, value in settings.items():
        monkeypatch.setenv(f"MEMORY_SERVICE_{name.upper()}", str(value))
    with Server(data) as server, server.client() as client:
        put_buffer(client)
        push(client, [make_exemplar(0, rank) for rank in range(4)])
        yield client


class Upload:
    """A request whose body comes as slowly as the test says."""

    def __init__(self, client: httpx.Client, body: bytes, *, path: str = URL, content_type: str = MEDIA_TYPE) -> None:
        self.body = body
        self.sent = 0
        self.connection = socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)
        head = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
        ]
        self.connection.sendall("\r\n".join([*head, "Expect: 100-continue", "", ""]).encode())
        # Sent once the service asks for the body: it has let the request in.
        assert self.connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def send(self, count: int) -> None:
        self.connection.sendall(self.body[self.sent : self.sent + count])
        self.sent += count

    def answer(self) -> httpx.Response:
        """Whatever the service says; the connection is done with."""
        received = b""
        while b"\r\n\r\n" not in received or len(received) < self._length(received):
            piece = self.connection.recv(65536)
            if not piece:
                break
            received += piece
        self.connection.close()
        head, content = received.split(b"\r\n\r\n", 1)
        status, *lines = head.decode().split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines]
        return httpx.Response(int(status.split()[1]), headers=headers, content=content)

    @staticmethod
    def _length(received: bytes) -> int:
        head = received.split(b"\r\n\r\n")[0].decode().lower()
        return len(head) + 4 + int(head.split("content-length: ")[1].split("\r\n")[0])

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def body_of(number: int, count: int = 3) -> bytes:
    return encode_batch([make_exemplar(number, rank) for rank in range(count)])


def begin(client: httpx.Client, stack: ExitStack, count: int) -> list[Upload]:
    """Uploads that the service has let in, and of which it has a part."""
    uploads = [stack.enter_context(Upload(client, body_of(number + 1))) for number in range(count)]
    for upload in uploads:
        upload.send(100)
    return uploads


def post(client: httpx.Client, number: int = 9, **params: Any) -> httpx.Response:
    return client.post(URL, content=body_of(number), headers=ARROW, params=params)


@contextmanager
def promptly() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < PROMPT


def test_beyond_so_many_pushes_one_is_told_to_come_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, max_pushes=2) as client, ExitStack() as stack:
        uploads = begin(client, stack, 2)
        with promptly():
            response = post(client)
            assert_problem(response, "too_busy", limit=2)
            assert int(response.headers["Retry-After"]) >= 1
        # Who reads, or changes without a body to wait for, does not notice.
        with promptly():
            assert len(sample(client, batch_size=16)) == 16
            assert len(client.get(URL).json()["exemplars"]) == 4
            assert client.get("/v1/buffers/b/stats").json()["num_records"] == 4
            assert client.put("/v1/buffers/b/snapshots/s").status_code == 201
            assert client.patch(URL, json={"exemplar_ids": [1], "ranks": [5]}).status_code == 200
        # The slow ones come through, byte by byte.
        for upload in uploads:
            upload.send(50)
        for upload in uploads:
            upload.send(len(upload.body))
            assert upload.answer().json()["kept"] == 3
        assert post(client).status_code == 200
        assert assert_consistent(client, data)["num_records"] == 13


def test_a_large_push_that_is_refused_gets_its_answer(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is there before the body is: it must reach who is still sending, and the next request too."""
    with serving(data, monkeypatch, max_pushes=1) as client, ExitStack() as stack:
        begin(client, stack, 1)
        large = encode_batch([make_exemplar(1, rank, pad=500_000) for rank in range(40)])
        for _ in range(3):
            assert_problem(client.post(URL, content=large, headers=ARROW), "too_busy")
        assert client.get("/healthz").status_code == 200


def test_a_stalled_body_is_given_up(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, max_pushes=1, body_seconds=1) as client, ExitStack() as stack:
        (stalled,) = begin(client, stack, 1)
        json_body = stack.enter_context(
            Upload(client, b'{"batch_size": 1}', path="/v1/buffers/b/sample", content_type="application/json")
        )
        json_body.send(5)
        assert_problem(post(client), "too_busy")
        for upload in (stalled, json_body):
            response = upload.answer()
            assert "1 s" in assert_problem(response, "invalid_request", status=408)["detail"]
        # Its place is free.
        assert post(client).status_code == 200
        # Slow is not stalled: more than a second in all, less between two pieces.
        slow = stack.enter_context(Upload(client, body_of(20)))
        for _ in range(4):
            slow.send(len(slow.body) // 4 + 1)
            time.sleep(0.4)
        assert slow.answer().status_code == 200
        assert assert_consistent(client, data)["num_records"] == 10


def test_clients_that_go_away_free_their_places(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, max_pushes=3) as client:
        for _ in range(4):
            with ExitStack() as stack:
                begin(client, stack, 3)
                assert_problem(post(client, dry_run=True), "too_busy")
            wait_until(lambda: post(client, dry_run=True).status_code == 200)
        assert post(client).status_code == 200
        # Nothing of theirs was kept.
        assert assert_consistent(client, data)["num_records"] == 7


def test_malformed_and_refused_pushes_free_their_places(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, max_pushes=1, max_body_bytes=10_000) as client:
        for _ in range(5):
            assert_problem(client.post(URL, content=b"x", headers=ARROW), "invalid_batch")
            assert_problem(client.post(URL, content=b"x"), "invalid_request", status=415)
            assert_problem(client.post(URL, content=iter([b"x" * 8000] * 2), headers=ARROW), "batch_too_large")
            assert post(client, dry_run=True).status_code == 200


def test_many_at_a_time_all_get_through(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With retries, and a key so that a retry is never a second push."""
    answers: dict[str, dict[str, Any]] = {}

    def pusher(url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for count in range(6):
                key = f"{number}-{count}"
                body = encode_batch([make_exemplar(number, rank, seed=100 * number + count) for rank in range(5)])
                while (response := client.post(URL, content=body, headers={**ARROW, "Idempotency-Key": key})).is_error:
                    assert_problem(response, "too_busy")
                    time.sleep(0.01)
                answers[key] = response.json()

    with serving(data, monkeypatch, max_pushes=2) as client:
        threads = [threading.Thread(target=pusher, args=(str(client.base_url), number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 48
        ids = [id_ for answer in answers.values() for id_ in answer["exemplar_ids"]]
        assert sorted(ids) == list(range(5, 5 + 240))
        # One after another, however many were written in one go.
        assert sorted(answer["version"] for answer in answers.values()) == list(range(2, 50))
        assert assert_consistent(client, data)["num_records"] == 244
        found = {record.exemplar_id: record.class_id for record in all_records(client)}
        for key, answer in answers.items():
            assert {found[id_] for id_ in answer["exemplar_ids"]} == {int(key.split("-")[0])}


def test_bodies_held_at_once_are_bounded_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(num_bytes: int) -> bytes:
        return encode_batch([make_exemplar(1, pad=num_bytes)])

    with serving(data, monkeypatch, max_pending_bytes=50_000) as client, ExitStack() as stack:
        slow = stack.enter_context(Upload(client, of(45_000)))
        slow.send(40_000)
        wait_until(lambda: client.post(URL, content=of(20_000), headers=ARROW).status_code == 429)
        response = client.post(URL, content=of(20_000), headers=ARROW)
        assert_problem(response, "too_busy", limit=50_000)
        assert "Retry-After" in response.headers
        assert client.post(URL, content=of(100), headers=ARROW).status_code == 200
        slow.send(10_000)
        assert slow.answer().status_code == 200
        # One alone may be larger, and nothing is left of those before.
        for _ in range(3):
            assert client.post(URL, content=of(100_000), headers=ARROW).status_code == 200
        assert_consistent(client, data)


def test_imports_are_bounded_and_hold_nobody_up(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, max_imports=1) as client, ExitStack() as stack:
        file = client.get("/v1/buffers/b/export").content
        slow = stack.enter_context(Upload(client, file, path="/v1/buffers/copy/import", content_type="application/zip"))
        slow.send(1000)
        with promptly():
            refused = client.post("/v1/buffers/other/import", content=file, headers=ZIP)
            assert_problem(refused, "too_busy", limit=1)
            assert int(refused.headers["Retry-After"]) >= 1
            assert post(client).status_code == 200
            assert len(sample(client, batch_size=16)) == 16
        slow.send(len(file))
        assert slow.answer().json()["name"] == "copy"
        assert client.post("/v1/buffers/other/import", content=file, headers=ZIP).status_code == 201
        # One that goes away half-way leaves nothing, and its place is free.
        with Upload(client, file, path="/v1/buffers/third/import", content_type="application/zip") as gone:
            gone.send(1000)
            wait_until(lambda: len(list((data / "incoming").iterdir())) == 1)
        wait_until(lambda: not list((data / "incoming").iterdir()))
        assert client.post("/v1/buffers/third/import", content=file, headers=ZIP).status_code == 201
        assert len(all_records(client, buffer="third")) == 4


def test_an_import_that_the_disk_cannot_take_is_refused_before_it_is_sent(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(data, monkeypatch) as client:
        announced = shutil.disk_usage(data).free // 2 + 2**33
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as connection:
            head = "POST /v1/buffers/copy/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
            connection.sendall(f"{head}Content-Length: {announced}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        assert answer.startswith("HTTP/1.1 507 ")
        assert "disk_limit_exceeded" in answer
        assert not list((data / "incoming").iterdir())
