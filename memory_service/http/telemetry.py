"""What each request was: a name of its own, a line in the log, and how long it took."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory_format.api.terms import REQUEST_ID_HEADER, STORE_HEADER
from memory_service.http.access import KEY_ID
from memory_service.logs import REQUEST_ID

logger = logging.getLogger("memory_service.access")

GONE: Final = "memory_service.gone"
"""ASGI extension: a function that says whether the client has gone (``memory_service.http.connections``)."""
_NAME: Final = REQUEST_ID_HEADER.lower().encode("ascii")
_STORE: Final = STORE_HEADER.lower().encode("ascii")
_GIVEN: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from a small batch to an import."""
_STATUS_OF_GONE: Final = 499
"""The status that is noted, as nginx does, where the client went before it had an answer."""


class Telemetry:
    """ASGI middleware around everything that answers, so that refusals and failures are seen too.

    A request's id is the one that it brings (``X-Request-ID``, if it may stand in a log), or a new one. Its answer
    repeats it, and so does every line that is logged meanwhile. ``Exemplar-Memory-Store`` says of which store an answer
    is.

    Args:
        registry: where its metrics are kept.
        access_log: log a line for every request.
        store_id: gives that of the store; empty while there is none.
    """

    def __init__(
        self, app: ASGIApp, *, registry: CollectorRegistry, access_log: bool, store_id: Callable[[], str]
    ) -> None:
        self._app = app
        self._store_id = store_id
        self._access_log = access_log
        # Seconds are finite. A NaN would be the sum for ever (findings/prometheus_nan.sh, prometheus_client 0.26.0).
        self._seconds = Histogram(
            "exemplar_request_duration_seconds",
            "From a request's head to the last byte of its answer.",
            ["route", "method", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = _id_of(scope)
        # Stays set: each request is a task, and what the server logs after it belongs to it.
        REQUEST_ID.set(name.decode("ascii"))
        status, num_bytes = _STATUS_OF_GONE, 0
        # The server takes what nobody gets any more without a word.
        is_gone: Callable[[], bool] = scope.get("extensions", {}).get(GONE, lambda: False)

        async def noting(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = _STATUS_OF_GONE if is_gone() else message["status"]
                said = ((_NAME, name), (_STORE, self._store_id().encode("ascii")))
                message["headers"] = [*message.get("headers", ()), *said]
            elif not is_gone():
                num_bytes += len(message.get("body", b""))
            await send(message)

        started = time.perf_counter()
        self.in_progress += 1
        try:
            await self._app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - started
            self.in_progress -= 1
            method = scope["method"] if scope["method"] in _METHODS else "other"
            # The address with its parameters as names: as many as there are routes, whatever clients ask for.
            route = getattr(scope.get("route"), "path", "none")
            self._seconds.labels(route, method, status).observe(seconds)
            if self._access_log:
                # Without the query: it is the client's, and may hold what should not be kept.
                client = (scope.get("client") or ("-",))[0]
                seen = scope["method"], scope["path"], status, seconds, num_bytes
                log_access(client, *seen, key_id=scope.get(KEY_ID))


def _id_of(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == _NAME and _GIVEN.fullmatch(value):
            given: bytes = value
            return given
    return secrets.token_hex(8).encode("ascii")


def log_access(
    client: str, method: str, path: str, status: int, seconds: float, num_bytes: int, *, key_id: str | None = None
) -> None:
    """Log one request; ``key_id`` is of the key that it came with."""
    seen: dict[str, Any] = {
        "client": client,
        "method": method,
        "path": quote(path),
        "status": status,
        "seconds": round(seconds, 6),
        "bytes": num_bytes,
        **({} if key_id is None else {"key": f"em_{key_id}"}),
    }
    logger.info(
        "%(client)s %(method)s %(path)s %(status)d, %(bytes)d bytes in %(seconds).3f s", seen, extra={"fields": seen}
    )
