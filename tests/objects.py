"""An object store for the tests: moto's server, or the one that ``pytest --object-store s3://BUCKET/PREFIX`` names."""

from __future__ import annotations

import io
import itertools
import logging
import os
import socket
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import httpx
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from tests.ports import keep

_NAMES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")


class ObjectStore(ABC):
    """A place in a bucket, with what a service finds it by.

    Args:
        place: ``s3://BUCKET`` or ``s3://BUCKET/PREFIX``: all that is put lies below it.
        environment: what obstore takes from there (``AWS_ENDPOINT_URL``, keys, region).
    """

    def __init__(self, place: str, environment: Mapping[str, str]) -> None:
        self.place = place
        self.environment = dict(environment)
        self._numbers = itertools.count()
        given = {name.lower(): value for name, value in environment.items()}
        self._everything = S3Store.from_url(place, client_options={"allow_http": True}, **given)  # type: ignore[arg-type]

    def new_prefix(self) -> str:
        """URL under which nobody has put anything."""
        return f"{self.place}/{next(self._numbers)}"

    def keys(self, url: str) -> set[str]:
        """What lies under one, without it."""
        prefix = self._below(url)
        pages = obstore.list(self._everything, prefix)
        return {found["path"].removeprefix(prefix) for page in pages for found in page}

    def get(self, url: str, key: str) -> bytes:
        """The bytes of an object."""
        return bytes(obstore.get(self._everything, self._below(url) + key).bytes())

    def put(self, url: str, key: str, data: bytes) -> None:
        """Damage an object."""
        obstore.put(self._everything, self._below(url) + key, data)

    def delete(self, url: str, key: str) -> None:
        """Lose an object."""
        obstore.delete(self._everything, self._below(url) + key)

    def _below(self, url: str) -> str:
        return url.removeprefix(f"{self.place}/") + "/"

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """Nobody listens meanwhile."""

    @abstractmethod
    def remove(self) -> None:
        """Leave nothing behind."""


class MotoStore(ObjectStore):
    """Listens on loopback; what it holds lives in this process. Writes come one after the other: moto 5.2.5 looks
    whether a name is taken, and puts it some lines later (moto/s3/responses.py, put_object). Two at once may find none.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._start(0)
        self._port = self._server.get_host_and_port()[1]
        endpoint = f"http://127.0.0.1:{self._port}"
        httpx.put(f"{endpoint}/bucket").raise_for_status()
        environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "geheim"}
        super().__init__("s3://bucket", environment | keys)

    def _start(self, port: int) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        self._server.start()
        server = self._server._server
        assert server is not None
        server.app = _one_write_at_a_time(server.app)

    @contextmanager
    def away(self) -> Iterator[None]:
        self._server.stop()
        with keep(self._port):
            try:
                yield
            finally:
                self._start(self._port)

    def remove(self) -> None:
        self._server.stop()


def _one_write_at_a_time(application: WSGIApplication) -> WSGIApplication:
    lock = threading.Lock()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return application(environ, start_response)
        # Before it is its turn: who sends slowly keeps nobody.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with lock:
            return application(environ, start_response)

    return answer


class NamedStore(ObjectStore):
    """One that runs already, found by the environment as a service finds it, in a prefix of its own there.

    It is spoken to through a port of this process, as it would go on listening when a test has it away. An endpoint
    with TLS is one of a name, which no other port has: those tests are skipped.
    """

    def __init__(self, place: str) -> None:
        environment = {name: os.environ[name] for name in _NAMES if name in os.environ}
        endpoint = urlsplit(environment.get("AWS_ENDPOINT_URL", ""))
        self._port = None
        if endpoint.scheme == "http" and endpoint.hostname:
            self._port = _Port(endpoint.hostname, endpoint.port or 80)
            environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{self._port.number}"
        super().__init__(f"{place.rstrip('/')}/tests-{uuid.uuid4().hex}", environment)

    @contextmanager
    def away(self) -> Iterator[None]:
        if self._port is None:
            pytest.skip("an object store whose endpoint has TLS cannot be away")
        self._port.close()
        with keep(self._port.number):
            try:
                yield
            finally:
                self._port.open()

    def remove(self) -> None:
        for page in obstore.list(self._everything):
            obstore.delete(self._everything, [found["path"] for found in page])
        if self._port is not None:
            self._port.close()


class _Port:
    """A port of loopback behind which is another one."""

    def __init__(self, host: str, port: int) -> None:
        self.number = 0
        self._there = (host, port)
        self._connections: set[socket.socket] = set()
        self.open()

    def open(self) -> None:
        address, connections = self._there, self._connections

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                behind = socket.create_connection(address)
                connections.update((self.request, behind))
                back = threading.Thread(target=_hand_on, args=(behind, self.request), daemon=True)
                back.start()
                _hand_on(self.request, behind)
                back.join()
                behind.close()
                connections.difference_update((self.request, behind))

        self._server = _Server(("127.0.0.1", self.number), Handler)
        self.number = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.socket.close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _hand_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def use(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes and this one use it."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
