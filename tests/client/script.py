"""A service that says what it is told to, for what a real one does not do when asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import httpx

from client import MemoryClient, Retries, Timeout
from client._transport import Transport
from memory_format.wire_schema import WIRE_VERSION

INFO = {"service": "exemplar-memory", "version": "0.1.0", "wire_version": WIRE_VERSION}
PUSHED = {
    "exemplar_ids": [1],
    "kept": 1,
    "rejected": 0,
    "evicted": [],
    "bytes_used": 1,
    "budget_bytes": 9,
    "version": 1,
}

Answer = httpx.Response | Exception


class Script(httpx.BaseTransport):
    """Answers requests from a list, the last for ever, and remembers them. ``/v1`` is answered apart."""

    def __init__(self, *answers: Answer, info: Any = INFO) -> None:
        self.answers = list(answers)
        self.info = info
        self.asked: list[httpx.Request] = []
        self.closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1":
            return httpx.Response(200, json=self.info)
        request.read()
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def close(self) -> None:
        self.closed = True


def problem(status: int, code: str, *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    document = {
        "type": f"urn:{code}",
        "title": "t",
        "status": status,
        "detail": "in words",
        "code": code,
        **more,
    }
    return httpx.Response(status, json=document, headers=headers)


class Meddling(httpx.HTTPTransport):
    """Does something to the buffer when records are asked for by id, after they were drawn."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__()
        self.meddle: Callable[[], object] | None = meddle
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path.rsplit("/", 1)[-1])
        if self.asked[-1] == "records" and self.meddle is not None:
            self.meddle()
            self.meddle = None
        return super().handle_request(request)


class Clock:
    """Time that passes only in waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def transport_of(script: Script, clock: Clock, **settings: Any) -> Transport:
    return Transport(
        "http://memory.test",
        timeout=settings.get("timeout", Timeout()),
        retries=settings.get("retries", Retries()),
        transport=script,
        sleep=clock.sleep,
        clock=clock,
        rng=random.Random(0),
    )


def client_of(script: httpx.BaseTransport) -> MemoryClient:
    return MemoryClient("http://memory.test", retries=Retries(first_wait=0), transport=script)


LOST = [httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.RemoteProtocolError("gone")]
