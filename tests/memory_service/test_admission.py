"""How much is taken in at once: slow clients, stalled ones, those that go away, and many at a time."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from memory_format import MEDIA_TYPE, encode_batch
from memory_service.http.app import create_app, open_store
from memory_service.settings import Settings
from tests.memory_service.conftest import URL as LOOPBACK
from tests.memory_service.conftest import running
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
    sql_of,
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
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
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


@contextmanager
def held_up(data: Path, begin: Sequence[Callable[[httpx.Client], httpx.Response]], **settings: Any) -> Iterator[Any]:
    """A service in this process whose index takes no change until the block ends; then what was begun must be
    well."""
    given = Settings(data=data, **settings)
    store = open_store(given)
    answers: list[int] = []
    try:
        with TestClient(create_app(given, store), LOOPBACK) as client:
            put_buffer(client)  # type: ignore[arg-type]
            push(client, [make_exemplar(0, rank) for rank in range(4)])  # type: ignore[arg-type]
            threads = [
                threading.Thread(target=lambda send: answers.append(send(client).status_code), args=(send,))
                for send in begin
            ]
            with sql_of(store)._write_lock:
                for thread in threads:
                    thread.start()
                yield client
            for thread in threads:
                thread.join()
        assert [status // 100 for status in answers] == [2] * len(begin)
    finally:
        store.release()


def test_beyond_so_many_pushes_one_is_told_to_come_again(data: Path) -> None:
    with held_up(data, [partial(post, number=1), partial(post, number=2)], max_pushes=2) as client:
        wait_until(lambda: client.app.state.admission.pushes.taken == 2)
        response = post(client)
        assert_problem(response, "too_busy", limit=2)
        assert int(response.headers["Retry-After"]) >= 1
        # Who reads does not notice.
        assert len(sample(client, batch_size=16)) == 16
        assert len(client.get(URL).json()["exemplars"]) == 4
    with running(data) as client:
        assert assert_consistent(client, data)["num_records"] == 10


def test_beyond_so_many_imports_one_is_told_to_come_again(data: Path) -> None:
    with running(data.parent / "other") as client:
        put_buffer(client)
        file = client.get("/v1/buffers/b/export").content

    def send(client: httpx.Client, name: str) -> httpx.Response:
        return client.post(f"/v1/buffers/{name}/import", content=file, headers=ZIP)

    with held_up(data, [partial(send, name="copy")], max_imports=1) as client:
        wait_until(lambda: client.app.state.admission.imports.taken == 1)
        refused = send(client, "second")
        assert_problem(refused, "too_busy", limit=1)
        assert int(refused.headers["Retry-After"]) >= 1


def test_slow_clients_take_nobodys_place(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 pushes, and imports too, that send a byte now and then: others get in all the while."""
    with serving(data, monkeypatch, max_pushes=2, max_imports=1) as client, ExitStack() as stack:
        file = client.get("/v1/buffers/b/export").content
        uploads = begin(client, stack, 64)
        for number in range(8):
            path = f"/v1/buffers/slow-{number}/import"
            uploads.append(stack.enter_context(Upload(client, file, path=path, content_type="application/zip")))
        for upload in uploads:
            upload.send(1)
        with promptly():
            assert post(client).status_code == 200
            assert client.post("/v1/buffers/copy/import", content=file, headers=ZIP).status_code == 201
            assert len(sample(client, batch_size=16)) == 16
        # They come through, one after another.
        for upload in (uploads[0], uploads[-1]):
            upload.send(len(upload.body))
            assert upload.answer().status_code in (200, 201)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (URL, MEDIA_TYPE),
        ("/v1/buffers/copy/import", "application/zip"),
        ("/v1/buffers/b/sample", "application/json"),
        ("/v1/buffers/b/forks", "application/json"),
    ],
    ids=["push", "import", "sample", "fork"],
)
def test_a_body_that_drips_is_given_up(
    data: Path, monkeypatch: pytest.MonkeyPatch, path: str, content_type: str
) -> None:
    """However fast it was before: no pause is as long as the seconds, and all of it is too slow."""
    with serving(data, monkeypatch, body_seconds=1, least_rate=2000) as client:
        with Upload(client, b" " * 100_000, path=path, content_type=content_type) as dripping:
            dripping.send(50_000)
            with suppress(OSError):
                for _ in range(200):
                    dripping.send(1)
                    time.sleep(0.05)
            assert "2000 bytes a second" in assert_problem(dripping.answer(), "invalid_request", status=408)["detail"]
        assert post(client).status_code == 200
        assert not list((data / "incoming").iterdir())


def test_a_large_push_that_is_refused_gets_its_answer(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is there before the body is: it must reach who is still sending, and the next request too."""
    with serving(data, monkeypatch, max_pending_bytes=100) as client, ExitStack() as stack:
        begin(client, stack, 1)
        large = encode_batch([make_exemplar(1, rank, pad=500_000) for rank in range(40)])
        for _ in range(3):
            assert_problem(client.post(URL, content=large, headers=ARROW), "too_busy")
        assert client.get("/healthz").status_code == 200


def test_a_stalled_body_is_given_up(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, body_seconds=1, least_rate=1) as client, ExitStack() as stack:
        (stalled,) = begin(client, stack, 1)
        json_body = stack.enter_context(
            Upload(client, b'{"batch_size": 1}', path="/v1/buffers/b/sample", content_type="application/json")
        )
        json_body.send(5)
        for upload in (stalled, json_body):
            response = upload.answer()
            assert "1 s" in assert_problem(response, "invalid_request", status=408)["detail"]
        assert post(client).status_code == 200
        # Slow is not stalled: more than a second in all, less between two pieces.
        slow = stack.enter_context(Upload(client, body_of(20)))
        for _ in range(4):
            slow.send(len(slow.body) // 4 + 1)
            time.sleep(0.4)
        assert slow.answer().status_code == 200
        assert assert_consistent(client, data)["num_records"] == 10


def test_clients_that_go_away_free_their_places(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch, max_pending_bytes=1000) as client:
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


def test_an_import_that_goes_away_leaves_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data, monkeypatch) as client:
        file = client.get("/v1/buffers/b/export").content
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


def test_an_import_stops_where_the_disk_would_not_take_it_twice(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is not announced: it is looked at while it comes."""
    usage = shutil.disk_usage(data.parent)
    with running(data) as client:
        monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=6 * 2**20))
        pieces = (bytes(2**20) for _ in range(100))
        response = client.post("/v1/buffers/copy/import", content=pieces, headers=ZIP)
        assert_problem(response, "disk_limit_exceeded", free_bytes=6 * 2**20)
        assert not list((data / "incoming").iterdir())
