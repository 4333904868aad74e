"""The one object that asks a service: it checks the version, tries again, and makes values or errors of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar

import httpx

from client._local import LocalWay, Read
from client._params import json_body
from client._reading import read_value
from client._transport import Transport
from client.errors import ProtocolError
from memory_format import NotFoundError
from memory_format.api.answers import ServiceInfo
from memory_format.api.terms import JSON_MEDIA_TYPE
from memory_format.wire_schema import WIRE_VERSION

T = TypeVar("T")


class Session:
    """Asks one service. Threads and forked processes may share it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.checked = False
        """Whether the service is known to speak this client's version."""
        self.local = LocalWay(transport.timeout, transport.key)

    def know(self, other: Session) -> None:
        """Take over what another session has found out about the same service."""
        self.checked = other.checked
        self.local.take_offer(other.local.offer)

    def request(
        self,
        method: str,
        path: str,
        *,
        safe: bool = True,
        json: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        """The answer to a request.

        Args:
            json: what goes as its body, in JSON.
            safe, arguments: as in :meth:`Transport.request`.

        Raises:
            ProtocolError: the service speaks another version.
            ExemplarMemoryError, ServiceError: as :meth:`Transport.request`.
        """
        headers = dict(headers or {})
        if json is not None:
            arguments["content"] = json_body(json)
            headers["Content-Type"] = JSON_MEDIA_TYPE
        if not self.checked or self.local.wants_offer:
            self._check_version()
        return self.transport.request(method, path, safe=safe, headers=headers, **arguments)

    def draw_locally(
        self, buffer: str, wanted: Mapping[str, Any], read: Read[T], next_step: int | None = None
    ) -> T | None:
        """A batch by the local way, see :meth:`LocalWay.draw`; None where it is to be asked over HTTP.

        Args:
            wanted: the sample's members.
            next_step: of the draw that follows, which has the same other members.
        """
        if self.local.offer is None:
            return None
        self.transport.addresses.refuse_if_stopped()
        body = {"buffer": buffer, **wanted}
        following = None if next_step is None else json_body({**body, "step": next_step})
        return self.local.draw(json_body(body), self.transport.deadline(), read, following)

    def stop(self) -> None:
        """Make calls in other threads end with an error, refuse new ones."""
        self.transport.addresses.stop()
        self.local.stop()

    def close(self) -> None:
        """Close the connections; calls in other threads end with an error."""
        self.local.close()
        self.transport.addresses.close()

    def value(self, kind: type[T], method: str, path: str, **arguments: Any) -> T:
        """The answer's JSON as a ``kind``; see :meth:`request`."""
        return read_value(kind, self.request(method, path, **arguments))

    def delete(self, path: str, **arguments: Any) -> None:
        """Delete what is at an address; ``arguments`` as in :meth:`request`.

        Raises:
            NotFoundError: there is nothing.
        """
        try:
            self.request("DELETE", path, **arguments)
        except NotFoundError as error:
            # After a broken connection, "there is none" is what a deletion that went through sounds like.
            if error.details.get("tries", 1) == 1:
                raise

    def _check_version(self) -> None:
        found = read_value(ServiceInfo, self.transport.request("GET", "/v1", safe=True))
        if found.wire_version != WIRE_VERSION:
            raise ProtocolError(
                f"the service at {self.transport.url} ({found.service} {found.version}) speaks wire version "
                f"{found.wire_version}, this client {WIRE_VERSION}: update the older of the two",
                client=WIRE_VERSION,
                service=found.wire_version,
            )
        self.checked = True
        # Whoever is asked in place of the network is not the one that listens there.
        self.local.take_offer(None if self.transport.addresses.injected else found.local)


class Connected(Protocol):
    """What a buffer needs of the client that it came from."""

    url: str
    session: Session

    def clone(self) -> Self:
        """Another client of the same service, with connections of its own."""

    def stop(self) -> None:
        """Make calls in other threads end with an error."""

    def close(self) -> None:
        """Close the connections."""
