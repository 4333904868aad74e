"""Reading the service's answers."""

from __future__ import annotations

import json
from typing import Any

import httpx

from client.errors import ProtocolError
from memory_format import Batch, FormatError, Record, wire


def read_json(response: httpx.Response) -> Any:
    """Raises:
    ProtocolError: it is not JSON.
    """
    try:
        return json.loads(response.content)
    except ValueError:
        start = response.text[:100]
        raise ProtocolError(f"{response.request.url} did not answer with JSON but with {start!r}") from None


def read_batch(response: httpx.Response) -> Batch:
    """The batch of an Arrow answer, each record checked, also against its CRC.

    Raises:
        ProtocolError: it is not such an answer, or was damaged on the way.
    """
    try:
        batch = wire.read_batch(response.content)
        wire.check_batch(batch)
    except FormatError as error:
        raise ProtocolError(f"{response.request.url} answered with unreadable records: {error}") from error
    return batch


def read_records(response: httpx.Response) -> list[Record]:
    """The records of an Arrow answer; see :func:`read_batch`."""
    return wire.split_batch(read_batch(response))


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
