"""What pages are made of beside themselves, and answers that a browser may keep until they change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import resources
from typing import Final

from fastapi import Request, Response

from memory_service.http.access import needs
from memory_service.http.routes.common import Router

router = Router()

_KEPT: Final = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
"""Kept, and asked about each time: what it shows may be gone."""


def is_known(request: Request, tag: str) -> bool:
    """Whether the client has the answer of this tag already (RFC 9110, section 13.1.2)."""
    given = ",".join(request.headers.getlist("if-none-match"))
    return tag in {part.strip().removeprefix("W/") for part in given.split(",")} or given.strip() == "*"


def tagged(request: Request, tag: str, content: bytes, media_type: str) -> Response:
    """An answer with its tag; without its body where the client has it."""
    headers = {**_KEPT, "ETag": tag}
    if is_known(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def tag_of(parts: Iterable[object]) -> str:
    """An entity tag of what makes an answer what it is."""
    text = "/".join(map(str, parts))
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


def _serve(name: str, media_type: str) -> None:
    content = (resources.files("memory_service.http.pages") / "static" / name).read_bytes()
    tag = tag_of([content.hex()])

    @router.get(f"/{name}", include_in_schema=False, openapi_extra=needs(None), response_model=None)
    async def file(request: Request) -> Response:
        return tagged(request, tag, content, media_type)


_serve("pages.css", "text/css")
_serve("favicon.svg", "image/svg+xml")
