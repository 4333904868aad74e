"""The client: one memory service and its buffers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from client import _listing, _transfer
from client._answers import buffer_path, read_json
from client._params import json_body, present
from client._transport import Retries, Timeout, Transport
from client.buffer import Buffer, Eviction
from client.errors import ProtocolError
from client.models import BufferInfo, ServiceInfo, parse
from memory_format import NotFoundError
from memory_format.wire import WIRE_VERSION


class MemoryClient:
    """A connection to one memory service. Threads may share it, and so may forked processes: each opens its own
    connections.

    No request is made before the first call, which also checks that client and service speak the same
    version.

    Args:
        url: ``http://host:port``, or ``host:port`` for the same.
        timeout: seconds to wait; a number stands for :attr:`Timeout.read`.
        retries: how often safe requests are repeated.
        transport: an ``httpx`` transport in place of the network.

    Raises:
        ValueError: the address or a number makes no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: Timeout | float | None = None,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if timeout is None:
            timeout = Timeout()
        elif not isinstance(timeout, Timeout):
            timeout = Timeout(read=timeout)
            timeout = replace(timeout, total=max(timeout.total, timeout.read))
        if not (retries is None or isinstance(retries, Retries)):
            raise ValueError(f"retries must be Retries(tries=...), got {retries!r:.100}")
        self._transport = Transport(url, timeout=timeout, retries=retries or Retries(), transport=transport)
        self.url = self._transport.url
        self._checked = False

    def __enter__(self) -> MemoryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryClient({self.url!r})"

    def clone(self) -> MemoryClient:
        """Another client of the same service and settings, with connections of its own."""
        other = MemoryClient(
            self.url,
            timeout=self._transport.timeout,
            retries=self._transport.retries,
            transport=self._transport.injected,
        )
        other._checked = self._checked
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        # Connections stay behind: a worker process opens its own.
        transport = self._transport
        return _rebuild, (self.url, transport.timeout, transport.retries, transport.injected)

    def close(self) -> None:
        """Close the connections; calls in other threads end with an error."""
        self._transport.close()

    def stop(self) -> None:
        """Make calls in other threads end at their next step, refuse new ones; :meth:`close` must follow."""
        self._transport.stop()

    def info(self) -> ServiceInfo:
        """Name and versions of the service."""
        return parse(ServiceInfo, self._json("GET", "/v1"))

    def health(self) -> bool:
        """Whether the service is up and can use its store; False where it says no.

        Raises:
            ServiceError: nobody answers.
        """
        response = self._transport.request("GET", "/readyz", safe=False, accept_status=(503,))
        return response.status_code == 200

    def create_buffer(
        self,
        name: str,
        *,
        budget_bytes: int | None = None,
        full_samples_per_class: int | None = None,
        full_sample_bytes: int | None = None,
        num_classes: int | None = None,
        max_budget_bytes: int | None = None,
        disk_limit_bytes: int | None = None,
        eviction: Eviction = "class_balanced",
        retain_snapshots: int | None = None,
        description: str = "",
    ) -> Buffer:
        """Make a buffer; nothing happens where it exists with the same settings.

        Args:
            budget_bytes: the most that its records' charges sum to; or, instead of it:
            full_samples_per_class, full_sample_bytes: so many full samples a class, of so many bytes each.
            num_classes: of so many classes; None = of those seen so far, so that the budget grows.
            max_budget_bytes: where it grows, to no more than that; None = 1,000 classes' worth.
            disk_limit_bytes: the most that everything kept for it takes on the service's disk, snapshots
                included; None = 1.5 times the budget, and at least 256 KiB over it.
            eviction: who leaves when the budget is full. ``class_balanced``: the worst ranked of the classes
                over their share; ``lowest_score``; ``fifo``: the oldest; ``reservoir``: drawn, so that what
                stays is a fair sample of all that was offered; ``reject`` refuses what does not fit.
            retain_snapshots: keep the newest so many; None = all.

        Raises:
            ConflictError: it exists with other settings.
            FormatError: the name or the budget is not a usable one.
        """
        body = present(
            {
                "budget_bytes": budget_bytes,
                "full_samples_per_class": full_samples_per_class,
                "full_sample_bytes": full_sample_bytes,
                "num_classes": num_classes,
                "max_budget_bytes": max_budget_bytes,
                "disk_limit_bytes": disk_limit_bytes,
                "eviction": eviction,
                "retain_snapshots": retain_snapshots,
                "description": description,
            }
        )
        self._request("PUT", buffer_path(name), safe=True, json=body)
        return Buffer(self, name)

    def buffer(self, name: str) -> Buffer:
        """An existing buffer.

        Raises:
            NotFoundError: there is none of that name.
        """
        buffer = Buffer(self, name)
        buffer.info()
        return buffer

    def buffers(self) -> list[BufferInfo]:
        """All buffers of the service."""
        return list(_listing.listed(self, "/v1/buffers", "buffers", BufferInfo))

    def delete_buffer(self, name: str) -> None:
        """Remove a buffer and all that it holds.

        Raises:
            NotFoundError: there is none of that name.
        """
        self._delete(buffer_path(name))

    def import_buffer(self, name: str, path: str | os.PathLike[str], *, progress: bool = False) -> Buffer:
        """Make a buffer of a file that :meth:`Buffer.export` wrote.

        The file is sent piece by piece. After a broken connection it is not sent again, as nobody knows then
        whether the buffer was made.

        Args:
            progress: show a bar; needs ``tqdm``.

        Raises:
            ConflictError: there is a buffer of that name.
            FormatError: ``invalid_export``: the file is not such a one.
            OSError: it cannot be read.
        """
        source = Path(path)
        headers = {"Content-Type": _transfer.MEDIA_TYPE, "Content-Length": str(source.stat().st_size)}
        self._request(
            "POST",
            buffer_path(name, "import"),
            safe=False,
            content=lambda: _transfer.pieces(source, progress=progress),
            headers=headers,
        )
        return Buffer(self, name)

    def _delete(self, path: str) -> None:
        """Delete what is at an address.

        Raises:
            NotFoundError: there is nothing.
        """
        try:
            self._request("DELETE", path, safe=True)
        except NotFoundError as error:
            # After a broken connection, "there is none" is what a deletion that went through sounds like.
            if error.details.get("tries", 1) == 1:
                raise

    def _request(self, method: str, path: str, *, safe: bool, **arguments: Any) -> httpx.Response:
        if "json" in arguments:
            arguments["content"] = json_body(arguments.pop("json"))
            arguments["headers"] = {"Content-Type": "application/json", **arguments.get("headers", {})}
        if not self._checked:
            self._check_version()
        return self._transport.request(method, path, safe=safe, **arguments)

    def _json(self, method: str, path: str, *, safe: bool = True, **arguments: Any) -> Any:
        return read_json(self._request(method, path, safe=safe, **arguments))

    def _check_version(self) -> None:
        found = parse(ServiceInfo, read_json(self._transport.request("GET", "/v1", safe=True)))
        if found.wire_version != WIRE_VERSION:
            raise ProtocolError(
                f"the service at {self.url} ({found.service} {found.version}) speaks wire version "
                f"{found.wire_version}, this client {WIRE_VERSION}: update the older of the two",
                client=WIRE_VERSION,
                service=found.wire_version,
            )
        self._checked = True


def _rebuild(url: str, timeout: Timeout, retries: Retries, transport: httpx.BaseTransport | None) -> MemoryClient:
    return MemoryClient(url, timeout=timeout, retries=retries, transport=transport)
