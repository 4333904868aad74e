"""Addresses: of a service, and of what lies in it."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import httpx

from memory_format import FormatError
from memory_format.api.terms import API_KEY_PATTERN

_UNIX: Final = "unix://"


def service_address(url: str) -> tuple[httpx.URL, str | None]:
    """The address of a service, and the path of its Unix socket where it is reached by one.

    ``host:port`` stands for ``http://host:port``; ``unix:///path`` is a socket.

    Raises:
        ValueError: it is none.
    """
    problem = f"the service's address must be http(s)://host[:port], or unix:///path of its socket, got {url!r}"
    if not isinstance(url, str):
        raise ValueError(problem)
    if API_KEY_PATTERN.search(url):
        # Addresses are shown in errors and logs.
        raise ValueError("a key does not belong in an address: MemoryClient(url, key=...), or EXEMPLAR_MEMORY_KEY")
    if not url.startswith(_UNIX) and "@" in re.split("[/?#]", url.split("://", 1)[-1])[0]:
        raise ValueError("a user and password do not belong in an address, which is shown in errors and logs")
    if url.startswith(_UNIX):
        path = url.removeprefix(_UNIX)
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"{problem}: a socket's path begins with /")
        return httpx.URL("http://localhost"), path
    try:
        parsed = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ValueError(f"{problem}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(problem)
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError(f"{problem}: ports lie in 1..65535")
    return parsed, None


def service_addresses(url: object) -> list[str]:
    """Addresses of one service: a list of them, or one text with commas between them. Whether each is one,
    :func:`service_address` says.

    Raises:
        ValueError: there is none, or one comes twice.
    """
    if isinstance(url, str):
        found: list[Any] = [url] if url.startswith(_UNIX) else [part.strip() for part in url.split(",")]
    else:
        found = [*url] if isinstance(url, list | tuple) else [url]
    if not found or len({*map(str, found)}) != len(found):
        raise ValueError(f"addresses of one service are needed, each once, got {url!r:.200}")
    return found


def buffer_path(name: str, *rest: str) -> str:
    """``/v1/buffers/NAME/...``.

    Raises:
        FormatError: a name would make another address; what else is no name, the service says.
    """
    return path_of("/v1/buffers", name, *rest)


def path_of(root: str, *parts: Any) -> str:
    """An address below a route's. Raises as :func:`buffer_path`."""
    for part in parts:
        if not isinstance(part, str) or part in ("", ".", ".."):
            raise FormatError(f"{part!r:.100} cannot be a name", code="invalid_request")
    try:
        return "/".join((root, *(quote(part, safe="") for part in parts)))
    except UnicodeEncodeError:
        raise FormatError(f"{parts!r:.100} cannot be names: they are no text", code="invalid_request") from None
