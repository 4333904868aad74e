"""Reading the service's answers."""

from __future__ import annotations

import json
from typing import Any

import httpx

from client.errors import ProtocolError
from memory_format import FormatError, Record, decode_batch


def read_json(response: httpx.Response) -> Any:
    """Raises:
    ProtocolError: it is not JSON.
    """
    try:
        return json.loads(response.content)
    except ValueError:
        start = response.text[:100]
        raise ProtocolError(f"{response.request.url} did not answer with JSON but with {start!r}") from None


def read_records(response: httpx.Response) -> list[Record]:
    """Records of an Arrow answer, each checked against its CRC.

    Raises:
        ProtocolError: it is not such an answer, or was damaged on the way.
    """
    try:
        return decode_batch(response.content)
    except FormatError as error:
        raise ProtocolError(f"{response.request.url} answered with unreadable records: {error}") from error


def read_version(response: httpx.Response) -> int:
    """The version that an Arrow answer was read from.

    Raises:
        ProtocolError: it does not say.
    """
    said = response.headers.get("Exemplar-Memory-Version", "")
    if not (said.isascii() and said.isdigit()):
        raise ProtocolError(f"{response.request.url} does not say which version it answers from, but {said!r:.100}")
    return int(said)


def list_member(document: Any, name: str) -> list[Any]:
    """Raises:
    ProtocolError: the document has no list of that name.
    """
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise ProtocolError(f"expected a JSON object with a list {name!r}")
    return value
