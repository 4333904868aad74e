"""The service in a process of its own, and an HTTP connection to it."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import Any, cast

import httpx

from benchmarks.common.processes import START_SECONDS, STOP_SECONDS, resident_bytes, running, written_bytes
from memory_format import MEDIA_TYPE
from memory_format.api.terms import Strategy
from memory_service.testing import ServiceProcess

DISK_LIMIT_FACTOR = 1.5
"""Of the budget, where a buffer does not state its ``disk_limit_bytes``."""

steps = itertools.count()
"""A step draws its batch once: the same one again would find everything in the processor's cache."""


class Service(ServiceProcess):
    """``memory-service serve`` in a process of its own, and an HTTP connection to it. It ends with this process."""

    def __init__(self, data: Path) -> None:
        # Its path may have some hundred characters, which a directory of stores may have already.
        self._sockets = tempfile.TemporaryDirectory(prefix="em-")
        super().__init__(
            data,
            "--uds",
            f"{self._sockets.name}/socket",
            environment={"MEMORY_SERVICE_LOG_LEVEL": "warning"},
            log=data.parent / f"{data.name}.log",
            start_seconds=START_SECONDS,
        )
        running.append(self)
        self._http = httpx.Client(base_url=self.url, timeout=300.0, trust_env=False)

    def create_buffer(self, name: str, budget_bytes: int) -> int:
        """Make a buffer; gives its disk limit."""
        self._checked(self._http.put(f"/v1/buffers/{name}", json={"budget_bytes": budget_bytes}))
        document = self._checked(self._http.get(f"/v1/buffers/{name}")).json()
        return int(document.get("disk_limit_bytes") or DISK_LIMIT_FACTOR * budget_bytes)

    def push(self, name: str, body: bytes, key: str | None = None) -> dict[str, Any]:
        """Push an encoded batch; gives the service's answer."""
        headers = {"Content-Type": MEDIA_TYPE} | ({} if key is None else {"Idempotency-Key": key})
        answer = self._checked(self._http.post(f"/v1/buffers/{name}/exemplars", content=body, headers=headers))
        return cast(dict[str, Any], answer.json())

    def sample(self, name: str, count: int, strategy: Strategy = "uniform") -> bytes:
        """The body of a sample's answer."""
        wanted = {"batch_size": count, "seed": 0, "step": next(steps), "strategy": strategy}
        return self._checked(self._http.post(f"/v1/buffers/{name}/sample", json=wanted)).content

    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)

    def written_bytes(self) -> int | None:
        return written_bytes(self.process.pid)

    def close(self) -> None:
        """End it, by force if it takes too long."""
        self._http.close()
        if self in running:
            running.remove(self)
        with contextlib.suppress(TimeoutError):
            self.stop(seconds=STOP_SECONDS)
        self._sockets.cleanup()

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _checked(response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise RuntimeError(f"{response.request.method} {response.request.url}: {response.text[:500]}")
        return response
