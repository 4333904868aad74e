"""An object store of the tests' own: moto's server, which honours conditions and ranges, and can be away."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "geheim",
    "AWS_REGION": "us-east-1",
}


class ObjectStore:
    """Listens on loopback; what it holds lives in this process."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._numbers = itertools.count()
        self._start(0)
        self.port = self._server.get_host_and_port()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        httpx.put(f"{self.endpoint}/bucket").raise_for_status()
        keys = {name.lower(): value for name, value in ENVIRONMENT.items()}
        self._bucket = S3Store("bucket", endpoint=self.endpoint, client_options={"allow_http": True}, **keys)  # type: ignore[arg-type]

    @property
    def environment(self) -> dict[str, str]:
        """For a process that uses it."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def new_prefix(self) -> str:
        """URL under which nobody has put anything."""
        return f"s3://bucket/{next(self._numbers)}"

    def keys(self, url: str) -> set[str]:
        """What lies under one, without it."""
        prefix = _prefix(url)
        pages = obstore.list(self._bucket, prefix)
        return {found["path"].removeprefix(prefix) for page in pages for found in page}

    def get(self, url: str, key: str) -> bytes:
        """The bytes of an object."""
        return bytes(obstore.get(self._bucket, _prefix(url) + key).bytes())

    def put(self, url: str, key: str, data: bytes) -> None:
        """Damage an object."""
        obstore.put(self._bucket, _prefix(url) + key, data)

    def delete(self, url: str, key: str) -> None:
        """Lose an object."""
        obstore.delete(self._bucket, _prefix(url) + key)

    def _start(self, port: int) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        self._server.start()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens meanwhile."""
        self._server.stop()
        try:
            yield
        finally:
            self._start(self.port)

    def remove(self) -> None:
        self._server.stop()


def _prefix(url: str) -> str:
    return url.removeprefix("s3://bucket/") + "/"


def use(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes and this one use it."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
