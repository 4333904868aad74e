"""Reading the service's answers."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from client.errors import ProtocolError
from memory_format import Batch, FormatError, wire
from memory_format.api.terms import VERSION_HEADER

T = TypeVar("T")


def read_value(kind: type[T], response: httpx.Response) -> T:
    """A JSON answer as one of ``memory_format.api.answers``. Members that a newer service adds are passed over.

    Raises:
        ProtocolError: it is not JSON, or a member is missing or of the wrong type.
    """
    hashable: Any = kind  # as every class is, and mypy does not know of a variable one
    try:
        value: T = _adapter(hashable).validate_json(response.content, strict=True)
        return value
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_context=False)
    place = ".".join((kind.__name__, *map(str, first["loc"])))
    if first["type"] == "json_invalid":
        raise ProtocolError(f"{response.request.url} did not answer with JSON but with {response.text[:100]!r}")
    if first["type"] == "missing":
        raise ProtocolError(f"the service sent no {place}; is it of another version?")
    raise ProtocolError(f"{place} cannot be {first['input']!r:.80}: {first['msg']}")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


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


def read_version(response: httpx.Response) -> int:
    """The version that an Arrow answer was read from.

    Raises:
        ProtocolError: it does not say.
    """
    said = response.headers.get(VERSION_HEADER, "")
    if not (said.isascii() and said.isdigit()):
        raise ProtocolError(f"{response.request.url} does not say which version it answers from, but {said!r:.100}")
    return int(said)
