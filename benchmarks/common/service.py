"""The service in a process of its own, and an HTTP connection to it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, cast

import httpx

from benchmarks.common.system import ChildProcess, python_module
from memory_format import MEDIA_TYPE
from memory_format.api.terms import Strategy

DISK_LIMIT_FACTOR = 1.5
"""Of the budget, where a buffer does not state its ``disk_limit_bytes``."""

_READY = re.compile(r"memory-service listening on (http://\S+)")

steps = itertools.count()
"""A step draws its batch once: the same one again would find everything in the processor's cache."""


class Service(ChildProcess):
    """``memory-service serve`` in a process of its own, and an HTTP connection to it."""

    def __init__(self, data: Path) -> None:
        data.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(
            python_module("memory_service", "serve", "--data", str(data), "--port", "0"),
            data.parent / f"{data.name}.log",
            {"MEMORY_SERVICE_LOG_LEVEL": "warning"},
        )
        found = _READY.match(self.first_line)
        if found is None:
            self.stop()
            raise RuntimeError(f"the service did not start: {self.first_line!r}")
        self.data = data
        self.url = found[1]
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

    def stop(self) -> None:
        if hasattr(self, "_http"):
            self._http.close()
        super().stop()

    @staticmethod
    def _checked(response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise RuntimeError(f"{response.request.method} {response.request.url}: {response.text[:500]}")
        return response
