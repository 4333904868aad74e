"""Who may call: browsers send requests that other people's pages make.

A page of any origin can send requests to loopback, and one whose name is rebound to loopback can read the answers, too.
What tells them apart is ``Host`` and ``Origin``, which a page cannot choose.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from memory_format import AccessError, ExemplarMemoryError, FormatError
from memory_service.http.errors import problem_response

ANY: Final = "*"
_NAME: Final = re.compile(r"[a-z0-9._-]+")
_LOOPBACK_NAME: Final = "localhost"
_REMEMBERED: Final = 256
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    address = _address(host)
    return host == _LOOPBACK_NAME if address is None else address.is_loopback


class Guard:
    """ASGI middleware that lets a request in when its ``Host`` is one of this service, and no other site sends it.

    Args:
        bound: the address that the service listens on. Its ``Host`` is taken, and those of loopback; where it stands
            for all addresses of the machine, every address is, as only names can be rebound.
        hosts: further names and addresses, ``*`` for any.
        origins: origins whose pages may call, ``*`` for any; the service's own may.
    """

    def __init__(self, app: ASGIApp, *, bound: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._app = app
        address = _address(bound)
        self._any_address = address is not None and address.is_unspecified
        self._hosts = frozenset({str(address or bound).lower(), *hosts})
        self._origins = frozenset(origins)
        self._known: set[bytes] = set()
        """Values of Host that were found good."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope)
            except ExemplarMemoryError as error:
                status = 400 if isinstance(error, FormatError) else None
                await problem_response(error.code, error.message, status=status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise FormatError(f"a request has one Host, not {len(hosts)}", code="invalid_request")
        if hosts[0] not in self._known:
            self._check_host(hosts[0].decode("latin-1"))
            if len(self._known) < _REMEMBERED:
                self._known.add(hosts[0])
        origins = [value for name, value in headers if name == b"origin"]
        for origin in origins:
            self._check_origin(origin.decode("latin-1"), hosts[0].decode("latin-1"))
        if not origins and ANY not in self._origins and not _is_own_fetch(scope["method"], dict(headers)):
            raise AccessError(
                "a page of another site sends this; open the service's own address, or name the page's origin in "
                "MEMORY_SERVICE_ALLOWED_ORIGINS and fetch with CORS",
                code="untrusted_origin",
            )

    def _check_host(self, given: str) -> None:
        host = _host_of(given)
        if host is None:
            raise FormatError(f"the Host {given[:300]!r} is no host[:port]", code="invalid_request")
        if host in self._hosts or is_loopback(host) or ANY in self._hosts:
            return
        if self._any_address and _address(host) is not None:
            return
        raise AccessError(
            f"the service does not answer to the Host {host[:300]!r}; if it is one of its own, whoever runs it names "
            "it in MEMORY_SERVICE_ALLOWED_HOSTS",
            code="untrusted_host",
        )

    def _check_origin(self, origin: str, host: str) -> None:
        scheme, _, authority = origin.lower().partition("://")
        own = scheme in ("http", "https") and authority == host.lower()
        if own or origin.lower() in self._origins or ANY in self._origins:
            return
        raise AccessError(
            f"a page of {origin[:300]!r} sends this; whoever runs the service lets an origin in by "
            "MEMORY_SERVICE_ALLOWED_ORIGINS",
            code="untrusted_origin",
        )


def _is_own_fetch(method: str, headers: dict[bytes, bytes]) -> bool:
    """Whether a request, if it is a browser's without an Origin is the person's own, or of the service's own page.

    Following a link to the service from another site is: the page that has the link cannot read the answer.
    """
    if headers.get(b"sec-fetch-site", b"none") in (b"same-origin", b"none"):
        return True
    goes_there = (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == (b"navigate", b"document")
    return goes_there and method in _SAFE_METHODS


def _host_of(given: str) -> str | None:
    """The host of ``host[:port]``, an IPv6 address without its brackets; None where it is neither."""
    host, colon, port = given.lower().rpartition(":")
    if not colon or given.endswith("]"):
        host, port = given.lower(), ""
    if port and not (port.isascii() and port.isdigit()):
        return None
    if host.startswith("[") and host.endswith("]"):
        address = _address(host[1:-1])
        return None if address is None else str(address)
    return host if _NAME.fullmatch(host) else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
